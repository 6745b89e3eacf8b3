import type { EngineStats } from "./engine/index.ts";
import type { CounterName } from "./engine/counters.ts";
import type { Figure } from "./telemetry/figures.ts";

/** What each counter of the engine counts. */
const counted: Readonly<Record<CounterName, string>> = {
  clientsAccepted: "Control connections taken.",
  clientsRefused: "Control connections refused, because there were too many or the engine was closing.",
  clientsClosed: "Control connections that are over.",
  authenticationFailures: "Wrong or missing secrets on control connections.",
  framesIn: "Messages from applications.",
  framesOut: "Messages to applications.",
  commandsRefused: "Orders of applications that were refused.",
  requestsIn: "SIP requests from the network, without repetitions and ACKs.",
  requestsRefused: "Requests that the engine refused itself, with 300 or above.",
  requestsUnrouted: "Requests that no application took.",
  requestsUnanswered: "Requests that an application took and did not answer.",
  responsesIn: "SIP responses from the network.",
  responsesUnmatched: "Responses that belong to no request any more.",
  requestsOut: "SIP requests sent, without repetitions.",
  responsesOut: "SIP responses that applications have sent.",
  acksUnmatched: "ACKs that belong to no 2xx that waits, repeated ones among them.",
  syntheticResponses: "Responses that the engine made because the network gave none (408, 503).",
  forksEnded: "Second answers to a forked INVITE, acknowledged and ended by BYE.",
  ackTimeouts: "2xx that were never acknowledged; the dialog was ended by BYE.",
  prackTimeouts: "Reliable provisional responses that were never acknowledged.",
  dialogsCreated: "Dialogs made.",
  dialogsEnded: "Dialogs that are over.",
  orphansEnded: "Dialogs that were ended because no application came back for them.",
  dialogsAdopted: "Dialogs that another connection has taken over.",
  endsKept: "Ends of dialogs that were kept for an application that was away.",
};

const snake = (name: string): string => name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

const total = (name: string, help: string, read: (stats: EngineStats) => number): Figure<EngineStats> => ({
  name: `patchbay_engine_${name}_total`,
  help,
  type: "counter",
  read,
});
const size = (name: string, help: string, read: (stats: EngineStats) => number): Figure<EngineStats> => ({
  name: `patchbay_engine_${name}`,
  help,
  type: "gauge",
  read,
});

/** The figures of our own engine, in this process or in one of its own. */
export const engineFigures: readonly Figure<EngineStats>[] = [
  size("dialogs", "Dialogs held now: two for a call with an operator.", ({ agent }) => agent.dialogs),
  size("applications", "Control connections now.", ({ wire }) => wire.clients),
  size(
    "pending",
    "Requests, transactions and timers now: everything that is no call at rest.",
    ({ agent, transactions }) =>
      agent.incoming + agent.outgoing + agent.timers + transactions.client + transactions.server,
  ),
  size("tcp_connections", "SIP connections over TCP and TLS now.", ({ transport }) => transport.tcpConnections),
  ...Object.entries(counted).map(([name, help]) =>
    total(snake(name), help, ({ counters }) => counters[name as CounterName]),
  ),
  total("messages_in", "SIP messages received, repetitions too.", ({ transport }) => transport.messagesIn),
  total("messages_out", "SIP messages sent, repetitions too.", ({ transport }) => transport.messagesOut),
  total("messages_malformed", "Messages that could not be read.", ({ transport }) => transport.malformed),
  total(
    "messages_unlisted",
    "Messages dropped without an answer, because their source belongs to no trunk.",
    ({ transport }) => transport.unlisted,
  ),
  total("send_failures", "Messages that could not be sent.", ({ transport }) => transport.sendFailures),
  total(
    "connections_refused",
    "SIP connections refused, because there were too many.",
    ({ transport }) => transport.connectionsRefused,
  ),
  total(
    "handshakes_failed",
    "TLS handshakes that came to nothing, in either direction.",
    ({ transport }) => transport.handshakesFailed,
  ),
  total(
    "retransmissions_in",
    "Requests received again: packets are lost, or we are slow.",
    ({ transactions }) => transactions.retransmissionsIn,
  ),
  total("merged", "Requests that came by two ways and got 482.", ({ transactions }) => transactions.merged),
  total(
    "overloaded",
    "Requests not served or not sent, because there were too many transactions.",
    ({ transactions }) => transactions.overloaded,
  ),
  total(
    "faults",
    "Exceptions caught at a socket or in a transaction: each is a fault of Patchbay's.",
    ({ transactions, transport }) => transactions.faults + transport.faults,
  ),
];
