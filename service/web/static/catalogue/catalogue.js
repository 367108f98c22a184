// Owns what every page of the catalogue needs: ticking, maps, and an address without what was done.

import { enablePicking } from "./picking.js";

/** The message stays until the page is left; the address must not show it again. */
function forgetDone() {
  const address = new URL(location.href);
  if (!address.searchParams.has("done")) return;
  address.searchParams.delete("done");
  history.replaceState(history.state, "", address);
}

/** Few pages have a map, and they alone load what draws it. */
async function enableMaps() {
  const maps = document.querySelectorAll("[data-map]");
  if (maps.length === 0) return;
  const { enable } = await import("./map.js");
  maps.forEach(enable);
}

forgetDone();
enablePicking();
enableMaps();
document.addEventListener("htmx:afterSettle", enableMaps);
