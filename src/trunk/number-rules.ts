import type { TrunkConfig } from "../config/schema.ts";

export type NumberRules = TrunkConfig["rules"];

/**
 * What is dialled on a trunk for the digits a bot gave (`+` allowed in front). `strip` is taken off where the number
 * begins with it, `prepend` is put in front, then the `+` is settled. Numbers with `*` or `#` never get a `+`: RFC 3966
 * §5.1.4 has global numbers of digits only.
 */
export function dialledNumber(rules: NumberRules, digits: string): string {
  const hadPlus = digits.startsWith("+");
  const bare = hadPlus ? digits.slice(1) : digits;
  const stripped = rules.strip !== "" && bare.startsWith(rules.strip) ? bare.slice(rules.strip.length) : bare;
  const number = rules.prepend + stripped;
  const plus = /^[0-9]+$/.test(number) && (rules.plus === "add" || (rules.plus === "keep" && hadPlus));
  return plus ? `+${number}` : number;
}
