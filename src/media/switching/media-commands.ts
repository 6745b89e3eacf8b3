import type { LegId } from "../../call/ids.ts";
import type { KeyPolicy } from "../../call/setup.ts";
import type { ReadyPrompt } from "../prompts/library.ts";
import type { Sides } from "./bridge-watch.ts";
import type { MediaServer, OperatorLeg } from "./call-legs.ts";
import type { SoundKind } from "./player.ts";
import type { AudioDescription, ChosenFormats } from "./sdp.ts";

/**
 * What a media server is told of a call, and asked: the part that is another one for each kind of them. All of it within
 * steps of the call's queue.
 */
export abstract class MediaCommands<S extends MediaServer, O extends OperatorLeg> {
  /** What it is called in the reason of a call that did not open. */
  protected abstract readonly serverName: string;
  /** Undefined when none answers or all are full; `except` have failed for this call already. */
  protected abstract choose(except: ReadonlySet<S>): S | undefined;
  /** The caller's leg is made, and hears nobody. Sets `heldBy` and `callerLeg`. */
  protected abstract anchorCaller(server: S, remote: AudioDescription, formats: ChosenFormats): Promise<void>;
  /** That has failed: nothing of the call may stay there. Never rejects. */
  protected async abandonCaller(): Promise<void> {}
  /** Where it is false, a call that is lost ends. */
  protected readonly movable: boolean = false;
  /**
   * The call has moved to `heldBy`, which knows nothing of it: it is made there as it was, with ends that its parties have
   * still to be told of.
   */
  protected async rebuild(): Promise<void> {}
  /** The caller has another description. What was agreed before still holds when it rejects (RFC 3264 §8). */
  protected abstract describeCaller(remote: AudioDescription, formats: ChosenFormats): Promise<void>;
  protected abstract newOperator(leg: LegId, tag: string, keys: KeyPolicy): Promise<O>;
  /** Before he is offered; he is among the operators already. */
  protected abstract readyOperator(operator: O): Promise<void>;
  protected abstract describeOperator(operator: O, remote: AudioDescription): Promise<void>;
  /** He has answered and talks to nobody yet. */
  protected abstract parkOperator(operator: O): Promise<void>;
  /** The caller would hear him as soon as he sends. */
  protected abstract readyEarly(operator: O): Promise<void>;
  /** His new description within the dialog. */
  protected abstract follow(operator: O, remote: AudioDescription): Promise<void>;
  /** Caller and operator hear each other. */
  protected abstract bridge(operator: O): Promise<void>;
  /** The operator holds the caller. `flows`: he sends music of his own. */
  protected abstract bridgeHeld(operator: O, flows: boolean): Promise<void>;
  /** The caller is with the bot's side, and the operator, who stays, is not heard. */
  protected async part(_operator: O): Promise<void> {}
  /** The operator, who was joined with the caller or not, goes. */
  protected abstract removeOperator(operator: O, joined: boolean): Promise<void>;
  protected abstract packetsOf(tag: string): Promise<number>;
  protected abstract letThrough(tag: string): Promise<void>;
  protected abstract shutOut(tag: string): Promise<void>;
  protected abstract receivedOnBridge(): Promise<Sides | undefined>;
  protected abstract relatch(): Promise<void>;
  /** The operator whose sound and the caller's go to each other. */
  protected abstract bridgedTag(): string | undefined;
  protected isShutOut(_tag: string): boolean {
    return false;
  }
  protected abstract mute(tag: string, on: boolean): Promise<void>;
  /** Resolves when it plays, with the length of one cycle in milliseconds. */
  protected abstract startSound(tag: string, ready: ReadyPrompt, times: number, kind: SoundKind): Promise<number>;
  protected abstract stopSound(tag: string): Promise<void>;
  /** What a leg hears from now on; null: nothing. */
  protected soundChanged(_tag: string, _ready: ReadyPrompt | null, _times: number): void {}
  /** No prompt plays to this leg any more. */
  protected soundIdle(_tag: string): void {}
  /** Never used twice: by this another process finds out whether the call still goes on. */
  protected abstract get nameInServer(): string;
  protected abstract startCapture(): Promise<string | undefined>;
  protected abstract stopCapture(): Promise<void>;
  /** Looks whether the caller is still there. */
  protected abstract lookAtCaller(): Promise<void>;
  /** The call's last step. `reachable`: the media server still holds the call. Never rejects. */
  protected abstract release(reachable: boolean): Promise<void>;
}
