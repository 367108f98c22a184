// Owns what every page of the catalogue needs: ticking, maps, and an address without what was done.

import { enablePicking } from "./picking.js";
import { enableMaps } from "./map.js";

/** The message stays until the page is left; the address must not show it again. */
function forgetDone() {
  const address = new URL(location.href);
  if (!address.searchParams.has("done")) return;
  address.searchParams.delete("done");
  history.replaceState(history.state, "", address);
}

forgetDone();
enablePicking();
enableMaps();
