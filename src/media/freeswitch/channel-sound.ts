import { messageOf } from "../media-error.ts";
import type { MediaLog } from "../options.ts";
import type { Channel } from "./fsmrf.ts";

/** Repetitions that are strung together without a gap; more than that are a loop that is stopped in time. */
const mostInOneString = 30;

/**
 * What we play to one channel. A prompt is mixed into the packets that FreeSWITCH sends there anyway (silence to a parked
 * channel, the partner's voice in a bridge), so it goes on whatever becomes of the bridge, and what the channel itself
 * says passes untouched: an application such as `playback` would stop the bridge for as long as it plays.
 */
export class ChannelSound {
  readonly #channel: Channel;
  readonly #log: MediaLog;
  #playing: string | null = null;

  constructor(channel: Channel, log: MediaLog) {
    this.#channel = channel;
    this.#log = log;
  }

  /** Plays `file` in place of what plays. Rejects with a MediaError. */
  async start(file: string, times: number): Promise<void> {
    await this.stop();
    const strung = times > 1 && times <= mostInOneString;
    const sound = strung ? `file_string://${Array.from({ length: times }, () => file).join("!")}` : file;
    // First, so that a recording has what is heard; mixed, because the other way silences what the channel says.
    await this.#channel.command("uuid_displace", "start", sound, "0", times > mostInOneString ? "fml" : "fm");
    this.#playing = sound;
  }

  async stop(): Promise<void> {
    const playing = this.#playing;
    this.#playing = null;
    if (playing === null) return;
    try {
      await this.#channel.command("uuid_displace", "stop", playing);
    } catch (error) {
      // It has ended by itself: FreeSWITCH does not tell.
      this.#log.debug({ error: messageOf(error) }, "a prompt had ended");
    }
  }
}
