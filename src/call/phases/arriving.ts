import type { CallEvent } from "../event.ts";
import type { In } from "../state.ts";
import { publish, type Step } from "../step.ts";
import { endCall } from "./ending.ts";
import { tellMoved } from "./moving.ts";

/** INVITE → anchor open → 200, or ringing until the bot's first command. */
export function offered(state: In<"offered">, event: CallEvent, atMs: number): Step {
  const { core } = state;
  switch (event.type) {
    case "media.opened": {
      if (core.setup.policy.answer === "on-command") {
        return [{ phase: "ringing", core, answer: event.answer }, [{ type: "leg.ring", leg: core.setup.caller }]];
      }
      return [
        { phase: "answering", core: { ...core, answeredAtMs: atMs } },
        [{ type: "leg.accept", leg: core.setup.caller, answer: event.answer }],
      ];
    }
    case "media.openFailed": {
      // RFC 3261 §21.4.26: 488 when no codec is shared, §21.5.4: 503 when the media server is away.
      const sipCode = event.incompatible ? 488 : 503;
      return endCall(state, { by: "service", sipCode, reason: event.reason }, atMs);
    }
    default:
      return [state, []];
  }
}

/** 200 is out; the talk begins with the ACK. RFC 3261 §13.3.1.4. */
export function answering(state: In<"answering">, event: CallEvent): Step {
  const { core } = state;
  if (event.type !== "leg.confirmed" || event.leg !== core.setup.caller) return [state, []];
  const recorded = core.setup.policy.recording.enabled;
  const { moved } = state;
  const [confirmed, follow] = moved === undefined ? [core, []] : tellMoved(core, event.leg, moved);
  return [
    { phase: "withBot", core: { ...confirmed, recording: recorded ? "on" : "off" } },
    [
      ...follow,
      { type: "media.phase", phase: "bot" },
      ...(recorded ? ([{ type: "recording.set", to: "start" }] as const) : []),
      publish({ event: "answered" }),
    ],
  ];
}
