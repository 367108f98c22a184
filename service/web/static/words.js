// Owns what scripts say: texts in the reader's language, taken from the page. English is the key.

const page = JSON.parse(document.querySelector("#words")?.textContent || "{}");
const found = page.words ?? {};

export const language = page.language ?? "en";
const plurals = new Intl.PluralRules(language);
const numbers = new Intl.NumberFormat(language === "en" ? "en-GB" : language);

const fill = (text, values) =>
  text.replace(/%\((\w+)\)[sd]/g, (whole, name) => (name in values ? values[name] : whole));

/** The text in the reader's language, with `%(name)s` filled in. */
export const word = (text, values = {}) => fill(found[text] ?? text, values);

/** The form for `n`, with `%(num)d` filled in. */
export function nword(one, many, n, values = {}) {
  const form = found[one]?.[plurals.select(n)] ?? (n === 1 ? one : many);
  return fill(form, { num: number(n), ...values });
}

/** A number in groups of three, with so many digits after the point. */
export const number = (value, digits = 0) =>
  digits
    ? new Intl.NumberFormat(numbers.resolvedOptions().locale, {
        minimumFractionDigits: digits,
        maximumFractionDigits: digits,
      }).format(value)
    : numbers.format(value);
