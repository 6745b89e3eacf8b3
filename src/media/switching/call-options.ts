import type { Prompt } from "../../call/effect.ts";
import type { CallEvent } from "../../call/event.ts";
import type { CallId, LegId } from "../../call/ids.ts";
import type { RecordingOrder } from "../../call/ports.ts";
import type { CallerSounds, KeyPolicy } from "../../call/setup.ts";
import type { MediaClock, MediaLog } from "../options.ts";
import type { ReadyPrompt } from "../prompts/library.ts";
import type { Recorder } from "../recording/recorder.ts";
import type { Waiting } from "./backdrop.ts";

/** What a call needs of its anchor, whichever that is. */
export interface SwitchedCallOptions {
  readonly call: CallId;
  readonly caller: LegId;
  readonly order: RecordingOrder;
  readonly sounds: CallerSounds;
  readonly callerKeys: KeyPolicy;
  /** What is heard where the channel has no sound of its own. */
  readonly usualSounds: Readonly<Record<Waiting, ReadyPrompt>>;
  readonly prepare: (prompt: Prompt) => Promise<ReadyPrompt>;
  readonly recorder: Recorder | null;
  /** Spool of a media server that has none of its own. */
  readonly spoolFolder: string;
  readonly watchMs: number;
  readonly mostQueued: number;
  readonly mostLegs: number;
  readonly clock: MediaClock;
  readonly log: MediaLog;
  /** A caller who sends nothing for so long is gone. */
  readonly callerTimeoutMs: number;
  /** An operator who was heard and has sent nothing for so long is asked for; 0: never. */
  readonly talkTimeoutMs: number;
  /** False when the call is not held any more. */
  readonly post: (event: CallEvent) => boolean;
  /** The call has ended and everything of it is released. */
  readonly onClosed: () => void;
}
