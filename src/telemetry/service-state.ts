/**
 * What `/readyz` tells and the gauges of `/metrics` show. Both are made of the same snapshot, so that they never disagree.
 * Names of trunks, gateways and anchors come from the configuration: there are as many as it lists.
 */
export interface ServiceState {
  /** New calls can be served, if not those of every channel: where several kinds of media server are used, one may be down. */
  readonly ready: boolean;
  /** Whether each part can do all of its work. */
  readonly parts: { readonly redis: boolean; readonly engine: boolean; readonly media: boolean };
  /** SIGTERM was seen: no new calls. */
  readonly draining: boolean;
  readonly redis: {
    readonly state: "up" | "down";
    /** Events of all calls that Redis has not confirmed, and how long the oldest of them has waited. */
    readonly queuedEvents: number;
    readonly lagMs: number;
  };
  readonly engine: { readonly kind: "embedded" | "separate" | "drachtio"; readonly state: "up" | "down" };
  /** Each kind of media server that some channel uses: up when one of them takes new calls. */
  readonly media: Readonly<Record<string, "up" | "down">>;
  readonly anchors: Readonly<Record<string, AnchorState>>;
  readonly trunks: Readonly<Record<string, TrunkState>>;
}

export interface AnchorState {
  readonly state: "up" | "down";
  readonly calls: number;
}

export interface TrunkState {
  /** `degraded`: some of its gateways cannot be called. `down`: none can, or its registration is refused or fails. */
  readonly state: "up" | "degraded" | "down";
  /** Absent for a trunk that does not register. */
  readonly registration?: RegistrationWord;
  /** Legs of calls on it now, and how many there may be. */
  readonly legs: number;
  readonly legsMax: number;
  readonly gateways: Readonly<Record<string, GatewayWord>>;
}

export const gatewayWords = ["up", "down", "resting"] as const;
export const registrationWords = ["registering", "registered", "failing", "refused", "ended"] as const;
export const trunkWords = ["up", "degraded", "down"] as const;
export type GatewayWord = (typeof gatewayWords)[number];
export type RegistrationWord = (typeof registrationWords)[number];
