import { addressBits } from "../lib/ip-network.ts";
import type { GatewayId, TrunkId } from "../call/ids.ts";
import type { Cancellable, Clock } from "../lib/clock.ts";
import type { Log } from "../telemetry/log.ts";
import type { SipGateway, SipTrunk } from "./directory.ts";
import type { TrunkCredentials } from "./hang-up.ts";
import { SipFault } from "./link/fault.ts";
import type { OutsideReply, OutsideRequest } from "./link/request.ts";
import { fromHostOf, gatewayUri } from "./operator-invite.ts";
import { Registration } from "./registration.ts";
import type { RegistrationState } from "./registration.ts";
import { formatSipUri } from "./uri.ts";

export interface TrunkWatchOptions {
  readonly trunks: readonly SipTrunk[];
  readonly credentials: (trunk: SipTrunk) => TrunkCredentials | null;
  readonly send: (request: OutsideRequest) => Promise<OutsideReply | SipFault>;
  readonly clock: Clock;
  readonly log: Log;
  /** How long a second of a registration lasts; other than 1000 in tests only. */
  readonly secondMs: number;
  readonly onGateway: (gateway: GatewayId, answered: boolean) => void;
  /** The registration of a trunk is in another state; `registrars()` may have changed. */
  readonly onRegistration: (trunk: TrunkId, state: RegistrationState) => void;
}

/** What we do for trunks apart from calls: registrations, and asking gateways whether they are there. */
export class TrunkWatch {
  readonly #options: TrunkWatchOptions;
  readonly #registrations: readonly Registration[];
  readonly #timers = new Map<GatewayId, Cancellable>();
  #up = false;

  constructor(options: TrunkWatchOptions) {
    this.#options = options;
    const { credentials, send, clock, log, secondMs, onRegistration } = options;
    this.#registrations = options.trunks.flatMap((trunk) =>
      trunk.registration === null
        ? []
        : new Registration({
            trunk,
            registration: trunk.registration,
            credentials: () => credentials(trunk),
            send,
            clock,
            log,
            random: Math.random,
            secondMs,
            onState: (state) => {
              onRegistration(trunk.id, state);
            },
          }),
    );
  }

  /** The engine came or went. */
  engine(up: boolean): void {
    this.#up = up;
    for (const registration of this.#registrations) {
      if (up) registration.begin();
      else registration.pause();
    }
    this.#stopAsking();
    if (up) {
      for (const trunk of this.#options.trunks) {
        for (const gateway of trunk.qualifyMs === null ? [] : trunk.gateways) {
          // Spread, so that a thousand gateways are not asked in one breath.
          this.#askIn(trunk, gateway, Math.min(trunk.qualifyMs ?? 0, 1000) * Math.random());
        }
      }
    }
  }

  /** The trunk that is registered with whoever has this address; `user` tells several accounts there apart. */
  registeredAt(address: string, user: string): SipTrunk | undefined {
    const wanted = addressBits(address)?.prefix;
    if (wanted === undefined) return undefined;
    const there = this.#registrations.filter((entry) => addressBits(entry.address ?? "")?.prefix === wanted);
    return (there.find((entry) => entry.user === user) ?? there[0])?.trunk;
  }

  /** Addresses that calls to our registrations come from. */
  registrars(): readonly string[] {
    return [...new Set(this.#registrations.flatMap(({ address }) => address ?? []))];
  }

  states(): ReadonlyMap<TrunkId, RegistrationState> {
    return new Map(this.#registrations.map(({ trunk, state }) => [trunk.id, state]));
  }

  /** Signs off everywhere and asks nobody any more. Resolves with the answers. */
  async end(): Promise<void> {
    this.#stopAsking();
    const up = this.#up;
    this.#up = false;
    await Promise.all(up ? this.#registrations.map((entry) => entry.end()) : []);
  }

  #stopAsking(): void {
    for (const timer of this.#timers.values()) timer.cancel();
    this.#timers.clear();
  }

  #askIn(trunk: SipTrunk, gateway: SipGateway, ms: number): void {
    const timer = this.#options.clock.after(ms, () => {
      void this.#ask(trunk, gateway, timer);
    });
    this.#timers.set(gateway.id, timer);
  }

  /** RFC 3261 §11: whoever answers OPTIONS with anything takes calls, unless he says that he cannot now. */
  async #ask(trunk: SipTrunk, gateway: SipGateway, timer: Cancellable): Promise<void> {
    const uri = formatSipUri(gatewayUri(gateway, null));
    const result = await this.#options.send({
      method: "OPTIONS",
      uri,
      proxy: null,
      headers: [
        {
          name: "From",
          value: `<sip:${trunk.registration?.user ?? "patchbay"}@${fromHostOf(trunk, gateway) ?? "localhost"}>`,
        },
        { name: "To", value: `<${uri}>` },
        { name: "Contact", value: "<sip:patchbay@localhost>" },
        { name: "Accept", value: "application/sdp" },
      ],
    });
    // Stopped meanwhile, or asked anew because the engine was away.
    if (this.#timers.get(gateway.id) !== timer) return;
    // The engine tells a silence as 408 and a send that failed as 503 (RFC 3261 §8.1.3.1).
    if (!(result instanceof SipFault)) {
      this.#options.onGateway(gateway.id, result.reply.status !== 408 && result.reply.status !== 503);
    } else if (result.code === "timeout") {
      this.#options.onGateway(gateway.id, false);
    }
    this.#askIn(trunk, gateway, trunk.qualifyMs ?? 0);
  }
}
