/** One thing a dialling string asks for. */
export type DialStep = { readonly key: string } | { readonly pauseMs: number };

/** What dialling strings use for waiting; a comma is the two seconds of the modem command set. */
const pausesMs: Readonly<Record<string, number>> = { " ": 500, w: 500, W: 1_000, ",": 2_000 };

/** Undefined when the text holds anything but the keys of a keypad and pauses, or no key at all. */
export function dialSteps(digits: string): readonly DialStep[] | undefined {
  const steps: DialStep[] = [];
  let keys = 0;
  for (const sign of digits) {
    const pauseMs = pausesMs[sign];
    if (pauseMs !== undefined) steps.push({ pauseMs });
    else if (/^[0-9*#A-Da-d]$/.test(sign)) {
      steps.push({ key: sign.toUpperCase() });
      keys += 1;
    } else return undefined;
  }
  return keys === 0 ? undefined : steps;
}
