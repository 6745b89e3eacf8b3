import type { Clock } from "../timers.ts";
import { Dialog } from "./dialog.ts";
import type { DialogState } from "./dialog.ts";

/**
 * RFC 3261 §12.2.2: a CSeq may be higher than the last by more than one. So what is sent in a dialog after it was saved need
 * not be saved too: the numbers of a dialog made again begin so far above, which is more than any call sends.
 */
const seqGap = 100_000;
/** RFC 3261 §8.1.1.5. */
const highestSeq = 2 ** 31 - 1;

/** A dialog as text that outlives its process. */
export function saveDialog(dialog: Dialog): string {
  return JSON.stringify(dialog.state());
}

/** The dialog made again, confirmed, in another process; undefined for a text that is not one of `saveDialog`. */
export function savedDialog(text: string, clock: Clock): Dialog | undefined {
  let state: unknown;
  try {
    state = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (!isDialogState(state)) {
    return undefined;
  }
  const dialog = new Dialog({ ...state, localSeq: Math.min(state.localSeq + seqGap, highestSeq - 1) }, clock);
  dialog.phase = "confirmed";
  return dialog;
}

const texts = [
  "callId",
  "localTag",
  "remoteTag",
  "localAddress",
  "remoteAddress",
  "localContact",
  "remoteTarget",
  "fromTag",
] as const satisfies readonly (keyof DialogState)[];

function isDialogState(value: unknown): value is DialogState {
  if (typeof value !== "object" || value === null) {
    return false;
  }
  const { role, localSeq, remoteSeq, routeSet, ...others } = value as Readonly<Record<string, unknown>>;
  return (
    (role === "uas" || role === "uac") &&
    Number.isSafeInteger(localSeq) &&
    (remoteSeq === undefined || Number.isSafeInteger(remoteSeq)) &&
    Array.isArray(routeSet) &&
    routeSet.every((route) => typeof route === "string") &&
    texts.every((name) => typeof others[name] === "string")
  );
}
