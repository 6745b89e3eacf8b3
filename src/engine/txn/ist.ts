import type { Table } from "./machine.ts";

/** INVITE server transaction: RFC 3261 §17.2.1 figure 7, as replaced by RFC 6026 §7.1 figure 5. */
export type InviteServerState = "proceeding" | "completed" | "accepted" | "confirmed" | "terminated";

export type InviteServerEvent =
  | "request"
  | "ACK"
  | "answer 1xx"
  | "answer 2xx"
  | "answer 3xx-6xx"
  | "timer G"
  | "timer H"
  | "timer I"
  | "timer L"
  | "transport error";

export const inviteServerTable: Table<InviteServerState, InviteServerEvent> = {
  proceeding: {
    request: { to: "proceeding", effects: ["send"] },
    "answer 1xx": { to: "proceeding", effects: ["send"] },
    "answer 2xx": { to: "accepted", effects: ["start L", "send"] },
    "answer 3xx-6xx": { to: "completed", effects: ["start G", "start H", "send"] },
    // RFC 6026 §7.1: a response that could not be sent does not end the transaction; the next one may get through.
    "transport error": { to: "proceeding", effects: ["reportTransportError"] },
  },
  completed: {
    request: { to: "completed", effects: ["send"] },
    "timer G": { to: "completed", effects: ["start G", "send"] },
    "timer H": { to: "terminated", effects: ["reportTimeout"] },
    ACK: { to: "confirmed", effects: ["stop G", "stop H", "start I"] },
    "transport error": { to: "completed", effects: ["reportTransportError"] },
  },
  accepted: {
    // RFC 6026 §7.1: retransmitted INVITEs are absorbed; the 2xx is retransmitted by the user agent alone.
    request: { to: "accepted", effects: [] },
    "answer 2xx": { to: "accepted", effects: ["send"] },
    ACK: { to: "accepted", effects: ["passUp"] },
    "transport error": { to: "accepted", effects: ["reportTransportError"] },
    "timer L": { to: "terminated", effects: [] },
  },
  confirmed: {
    ACK: { to: "confirmed", effects: [] },
    "timer I": { to: "terminated", effects: [] },
  },
  terminated: {},
};
