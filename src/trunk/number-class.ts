/** Kinds of numbers that cost much or bind people, which a bot calls only where the configuration says so. */
export type NumberClass = "emergency" | "premium" | "satellite";

/** How numbers without a `+` are written in a country (ITU-T E.164 and its operational bulletins). */
interface DialPlan {
  readonly international: readonly string[];
  /** Goes before a number inside the country and is no part of it; empty where there is none. */
  readonly national: string;
  readonly emergency: readonly string[];
  /** Numbers of the country, its code included, that the caller pays more for than the call. */
  readonly premium: readonly string[];
}

// Everywhere: a bot behind a trunk whose country is not configured, and the numbers that phones dial in any network.
const universalInternational: readonly string[] = ["00", "011"];
const universalEmergency: readonly string[] = ["112", "911", "999"];
const commonEmergency: readonly string[] = ["000", "101", "102", "103", "104", "110", "119"];

const plan = (
  national: string,
  emergency: readonly string[],
  premium: readonly string[],
  international: readonly string[] = [],
): DialPlan => ({ national, emergency, premium, international });

const plans: ReadonlyMap<string, DialPlan> = new Map([
  ["1", plan("1", ["933"], ["1900"])],
  ["7", plan("8", ["01", "02", "03", "04", "101", "102", "103", "104"], ["7809"], ["810"])],
  ["31", plan("0", [], ["3190"])],
  ["32", plan("0", ["100", "101"], ["3290"])],
  ["33", plan("0", ["15", "17", "18", "114", "119"], ["3389"])],
  ["34", plan("", ["061", "062", "080", "085", "091", "092"], ["34803", "34806", "34807", "34905", "34907"])],
  ["39", plan("", ["113", "115", "118"], ["3989"])],
  ["41", plan("0", ["117", "118", "144"], ["4190"])],
  ["43", plan("0", ["122", "133", "144"], ["4390", "4393"])],
  ["44", plan("0", [], ["449", "44871", "44872", "44873"])],
  ["46", plan("0", [], ["46900", "46939", "46944"])],
  ["48", plan("", ["997", "998"], ["4870"])],
  ["49", plan("0", ["110"], ["49137", "49900"])],
  ["61", plan("0", ["000", "106"], ["61190"], ["0011"])],
  ["81", plan("0", ["110", "118", "119"], ["81990"], ["010"])],
  ["90", plan("0", ["155", "156"], ["90900"])],
  ["375", plan("8", ["101", "102", "103", "104"], ["375902"], ["810"])],
  ["380", plan("0", ["101", "102", "103", "104"], ["380900"])],
  ["420", plan("", ["150", "155", "158"], ["4209"])],
]);

// ITU-T E.164: 870 Inmarsat, 878 and 881 to 883 satellite and international networks, 979 international premium rate.
const satellite: readonly string[] = ["870", "878", "881", "882", "883"];
// North American numbers that look like inland calls and are billed as calls to the Caribbean: the oldest toll fraud.
const islands = ["242", "246", "264", "268", "284", "345", "441", "473", "649", "658", "664", "721", "758", "767"];
const moreIslands = ["784", "809", "829", "849", "868", "869", "876"];
const premium: readonly string[] = [
  "979",
  ...[...islands, ...moreIslands].map((area) => `1${area}`),
  ...[...plans.values()].flatMap((known) => known.premium),
];

/** Shorter than this no international number is, so a text that long with a cut-off prefix is only that. */
const internationalMin = 8;
/** No country writes its own numbers, trunk prefix included, with as many digits. */
const longerThanNational = 12;

/** What digits may be taken for on their way, as international numbers: country code first, no `+`. */
export interface Readings {
  /** Behind a `+` or an international prefix: the number says itself that it is one. */
  readonly explicit: ReadonlySet<string>;
  /** As a number of the trunk's country, or because it is too long for any country's own. */
  readonly guessed: ReadonlySet<string>;
}

/** `country` is the calling code of the trunk, empty when it is not known. */
export function readings(digits: string, country: string): Readings {
  const explicit = new Set<string>();
  const guessed = new Set<string>();
  const add = (set: Set<string>, reading: string): void => {
    if (reading.length >= internationalMin) set.add(reading);
  };
  if (/^\+[1-9]/.test(digits)) {
    add(explicit, digits.slice(1));
    return { explicit, guessed };
  }
  // No country's code begins with 0, * or #, so whoever reads a number with such a + on leaves the + out.
  const text = digits.replace(/^\+/, "");
  const known = plans.get(country);
  const prefixes = [...universalInternational, ...(known?.international ?? [])];
  for (const bare of withoutServiceCode(text)) {
    // One digit in front may ask a switchboard for an outside line.
    for (const front of [bare, bare.slice(1)]) {
      for (const prefix of prefixes) {
        if (front.startsWith(prefix)) add(explicit, front.slice(prefix.length));
      }
    }
    if (bare.length >= longerThanNational) add(guessed, bare);
    if (country === "") continue;
    if (bare.startsWith(country)) add(guessed, bare);
    const national = known?.national ?? "0";
    if (national !== "" && bare.startsWith(national)) add(guessed, country + bare.slice(national.length));
    if (!bare.startsWith("0")) add(guessed, country + bare);
  }
  return { explicit, guessed };
}

/** The class a number belongs to in any of its readings, null for an ordinary one. */
export function numberClass(digits: string, country: string): NumberClass | null {
  const emergency = [...universalEmergency, ...(plans.get(country)?.emergency ?? commonEmergency)];
  // A # at the end says only that the number is whole.
  if (withoutServiceCode(digits.replace(/^\+|#+$/g, "")).some((bare) => emergency.includes(bare))) return "emergency";
  const { explicit, guessed } = readings(digits, country);
  const begins = (prefixes: readonly string[]): boolean =>
    [...explicit, ...guessed].some((reading) => prefixes.some((prefix) => reading.startsWith(prefix)));
  if (begins(satellite)) return "satellite";
  return begins(premium) ? "premium" : null;
}

/** A service code in front (`*67`, `#31#`, `*141`) changes how a call is shown, not whom it reaches; its length is open. */
function withoutServiceCode(digits: string): readonly string[] {
  const bare = [/^[*#]\d{2}[*#]?/, /^[*#]\d{3}[*#]?/].flatMap((code) =>
    code.test(digits) ? digits.replace(code, "") : [],
  );
  return bare.length === 0 ? [digits] : bare;
}
