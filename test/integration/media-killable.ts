// A service of its own process that records one call until it is killed: options and the caller's offer come as arguments.
import type { CallId, LegId, Sdp } from "../../src/call/ids.ts";
import { systemMediaClock } from "../../src/media/options.ts";
import type { MediaOptions } from "../../src/media/options.ts";
import { startRtpengineAnchor } from "../../src/media/rtpengine/anchor.ts";

const [options = "", offer = ""] = process.argv.slice(2);
const quiet = (): void => {};
const call = "killed-call" as CallId;
const anchor = await startRtpengineAnchor({
  ...(JSON.parse(options) as MediaOptions),
  clock: systemMediaClock,
  log: { debug: quiet, info: quiet, warn: quiet, error: quiet },
  post(_call, event) {
    if (event.type === "media.opened") {
      process.send?.({ opened: event.answer });
      anchor.phase(call, "bot");
      anchor.recording(call, "start");
    }
    if (event.type === "recording.changed") process.send?.({ recording: event.state });
    return true;
  },
});
anchor.open(call, "killed-call/caller" as LegId, offer as Sdp, { botId: "bot-1", caller: "100", called: "200" });
