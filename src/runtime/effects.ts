import type { BotEvent } from "../call/bot-event.ts";
import type { Effect } from "../call/effect.ts";
import type { BotLink, MediaAnchor, Signalling, Timers, TrunkMemory } from "../call/ports.ts";
import { type CallSetup, usualKeys, usualSounds } from "../call/setup.ts";
import type { Telemetry } from "../telemetry/events.ts";

/** Everything a call's effects reach. */
export interface Ports {
  readonly signalling: Signalling;
  readonly media: MediaAnchor;
  readonly bot: BotLink;
  readonly timers: Timers;
  readonly trunks: TrunkMemory;
}

/** Hands one effect to the port it is for. Exceptions pass: the registry knows what they mean for the call. */
export function runEffect(ports: Ports, setup: CallSetup, effect: Effect): void {
  const { signalling, media, bot, timers, trunks } = ports;
  const { call } = setup;
  switch (effect.type) {
    case "leg.ring":
      return signalling.ring(call, effect.leg);
    case "leg.accept":
      return signalling.accept(call, effect.leg, effect.answer);
    case "leg.reject":
      return signalling.reject(call, effect.leg, effect.status, effect.reason);
    case "leg.invite":
      return signalling.invite(call, effect.order);
    case "leg.cancel":
      return signalling.cancel(call, effect.leg, effect.reason, effect.elsewhere);
    case "leg.bye":
      return signalling.bye(call, effect.leg, effect.reason, effect.headers);
    case "leg.refer":
      return signalling.refer(call, effect.leg, effect.request);
    case "refer.answer":
      return signalling.answerRefer(call, effect.leg, effect.status);
    case "refer.notify":
      return signalling.notifyRefer(call, effect.leg, effect.status, effect.reason, effect.last);
    case "trunk.withoutRefer":
      return trunks.withoutRefer(effect.trunk);
    case "leg.reanswer":
      return signalling.reanswer(call, effect.leg, effect.exchange, effect.answer);
    case "leg.reinvite":
      return signalling.reinvite(call, effect.leg, effect.offer);
    case "leg.press":
      return signalling.press(call, effect.leg, effect.play, effect.digits);
    case "leg.refuse":
      return signalling.refuse(call, effect.leg, effect.exchange, effect.status);
    case "media.open": {
      const { botId, callerNumber, calledNumber } = setup;
      const order = { botId, caller: callerNumber, called: calledNumber };
      const { sounds = usualSounds, keys = usualKeys } = setup.policy;
      return media.open(call, effect.leg, effect.offer, order, { sounds, keys });
    }
    case "media.play":
      return media.play(call, effect.play, effect.leg, effect.prompt);
    case "media.stop":
      return media.stop(call, effect.leg);
    case "media.ringback":
      return media.ringback(call, effect.on);
    case "media.offer":
      return media.offer(call, effect.leg, effect.keys ?? usualKeys);
    case "media.early":
      return media.early(call, effect.leg, effect.answer);
    case "media.consult":
      return media.consult(call, effect.leg, effect.answer);
    case "media.join":
      return media.join(call, effect.leg, effect.answer);
    case "media.aside":
      return media.aside(call, effect.leg, effect.on);
    case "media.drop":
      return media.drop(call, effect.leg);
    case "media.update":
      return media.update(call, effect.leg, effect.exchange, effect.offer);
    case "media.propose":
      return media.propose(call, effect.leg, effect.exchange, effect.offer);
    case "media.renew":
      return media.renew(call, effect.leg, effect.answer, effect.taken ?? false);
    case "media.phase":
      return media.phase(call, effect.phase);
    case "media.close":
      return media.close(call);
    case "recording.set":
      return media.recording(call, effect.to);
    case "timer.start":
      return timers.start(call, effect.timer, effect.ms);
    case "timer.stop":
      return timers.stop(call, effect.timer);
    case "bot.publish":
      return bot.publish(call, effect.event);
  }
}

/** What of a call's story is worth a log line and a counter. */
export function observe(telemetry: Telemetry, { call }: CallSetup, event: BotEvent): void {
  switch (event.event) {
    case "transfer": {
      const { transferId, cause, sipCode, ringMs, talkMs } = event.transferDetails;
      const { status } = event.transferStatus;
      return telemetry.transferEnded(call, { transferId, status, cause, sipCode, ringMs, talkMs });
    }
    case "hangup":
      return telemetry.callEnded(call, { by: event.by, reason: event.reason, durationMs: event.durationMs });
    case "warning":
      return event.code === "fallback" ? telemetry.botLost(call) : undefined;
    case "rejected":
      return telemetry.commandRejected(call, event.code, event.pointer);
    case "recording":
      return telemetry.recordingChanged(call, event.state, event.reason);
    default:
      return undefined;
  }
}
