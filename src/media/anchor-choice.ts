import type { Prompt, TalkPhase } from "../call/effect.ts";
import type { CallId, ExchangeId, LegId, PlayId, Sdp } from "../call/ids.ts";
import type { CallerPolicy, MediaAnchor, RecordingOrder } from "../call/ports.ts";
import type { KeyPolicy } from "../call/setup.ts";
import type { RecoveredRecording } from "./recording/recorder.ts";
import type { Anchor, AnchorState, MediaStats } from "./switching/switching-anchor.ts";

/** Several anchors, each with its name, behind one port: the bot's channel says which has the call. */
export class AnchorChoice implements MediaAnchor, AsyncDisposable {
  readonly #byName: ReadonlyMap<string, Anchor>;
  readonly #anchors: readonly [Anchor, ...Anchor[]];
  readonly #nameFor: (botId: string) => string;
  /** Calls that were opened and not closed. */
  readonly #chosen = new Map<CallId, Anchor>();

  /**
   * `anchors` are those that some channel uses, and this object's from now on; `nameFor` gives the name of one of them. Throws
   * when there is none.
   */
  constructor(anchors: ReadonlyMap<string, Anchor>, nameFor: (botId: string) => string) {
    const [usual, ...rest] = anchors.values();
    if (usual === undefined) throw new Error("no media anchor is used");
    this.#byName = anchors;
    this.#anchors = [usual, ...rest];
    this.#nameFor = nameFor;
  }

  /** By its name: whether a new call can be anchored there. */
  ready(): Readonly<Record<string, boolean>> {
    return Object.fromEntries([...this.#byName].map(([name, anchor]) => [name, anchor.ready()]));
  }

  /** Every media server. */
  anchors(): readonly AnchorState[] {
    return this.#anchors.flatMap((anchor) => anchor.anchors());
  }

  /** Sums over the anchors. */
  stats(): MediaStats {
    const [first, ...others] = this.#anchors.map((anchor) => anchor.stats());
    const sum = { ...first } as Record<keyof MediaStats, number>;
    for (const stats of others) {
      for (const key of Object.keys(sum) as (keyof MediaStats)[]) sum[key] += stats[key];
    }
    return sum;
  }

  async recoverSpool(): Promise<readonly RecoveredRecording[]> {
    return (await Promise.all(this.#anchors.map((anchor) => anchor.recoverSpool()))).flat();
  }

  async releaseLeft(calls: readonly string[]): Promise<void> {
    if (calls.length > 0) await Promise.all(this.#anchors.map((anchor) => anchor.releaseLeft(calls)));
  }

  /** A call that is not open is answered by the first anchor, which does not hold it either. */
  #of(call: CallId): Anchor {
    return this.#chosen.get(call) ?? this.#anchors[0];
  }

  open(call: CallId, leg: LegId, offer: Sdp, recording: RecordingOrder, policy: CallerPolicy): void {
    const wanted = this.#byName.get(this.#nameFor(recording.botId));
    const anchor = this.#chosen.get(call) ?? wanted ?? this.#anchors[0];
    this.#chosen.set(call, anchor);
    anchor.open(call, leg, offer, recording, policy);
  }

  play(call: CallId, play: PlayId, leg: LegId, prompt: Prompt): void {
    this.#of(call).play(call, play, leg, prompt);
  }

  stop(call: CallId, leg: LegId): void {
    this.#of(call).stop(call, leg);
  }

  ringback(call: CallId, on: boolean): void {
    this.#of(call).ringback(call, on);
  }

  offer(call: CallId, leg: LegId, keys: KeyPolicy): void {
    this.#of(call).offer(call, leg, keys);
  }

  early(call: CallId, leg: LegId, answer: Sdp): void {
    this.#of(call).early(call, leg, answer);
  }

  propose(call: CallId, leg: LegId, exchange: ExchangeId, offer: Sdp): void {
    this.#of(call).propose(call, leg, exchange, offer);
  }

  renew(call: CallId, leg: LegId, answer: Sdp, taken: boolean): void {
    this.#of(call).renew(call, leg, answer, taken);
  }

  consult(call: CallId, leg: LegId, answer: Sdp): void {
    this.#of(call).consult(call, leg, answer);
  }

  join(call: CallId, leg: LegId, answer: Sdp): void {
    this.#of(call).join(call, leg, answer);
  }

  aside(call: CallId, leg: LegId, on: boolean): void {
    this.#of(call).aside(call, leg, on);
  }

  drop(call: CallId, leg: LegId): void {
    this.#of(call).drop(call, leg);
  }

  update(call: CallId, leg: LegId, exchange: ExchangeId, offer: Sdp | null): void {
    this.#of(call).update(call, leg, exchange, offer);
  }

  phase(call: CallId, phase: TalkPhase): void {
    this.#of(call).phase(call, phase);
  }

  recording(call: CallId, to: "start" | "pause" | "resume" | "stop"): void {
    this.#of(call).recording(call, to);
  }

  /** The call is over for the core: nothing is asked for it any more. */
  close(call: CallId): void {
    const anchor = this.#of(call);
    this.#chosen.delete(call);
    anchor.close(call);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const anchor of this.#anchors) await anchor[Symbol.asyncDispose]();
  }
}
