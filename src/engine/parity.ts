/**
 * Where this engine and drachtio-server (at 9c2dd4cb) behave differently in a way that an application or a peer can see,
 * and where `strictParity` makes it behave like drachtio-server. Each row says first what the engine does, then what
 * drachtio-server does. Not imitated, whatever `strictParity` says: commands of connections that did not authenticate,
 * messages that drachtio-srf cannot read, crashes, and what would leave state behind for ever.
 */
export const differences = {
  adoption:
    "A dialog goes over to the connection that last sent in it, and from a lost one to an heir. | It stays with the connection that made it.",
  orphans:
    "Requests in a dialog without an application wait, BYE gets 200, and the engine ends the dialog after the grace time. | All get 481, a BYE deletes the dialog, and the other side is never told.",
  pending:
    "Requests that a lost application has not answered are given to the next one, its ringing calls are cancelled. | Nobody answers them; what its calls are answered is thrown away.",
  waiting: "New requests wait for an application that was there a moment ago. | They get 503 at once.",
  unanswered: "An INVITE that no application answers gets 408 after 64 s. | It is forgotten without an answer.",
  glare: "Crossing offers get 491, a second INVITE before the first is answered 500. | They are delivered.",
  order: "A request with a lower CSeq number than the last gets 500. | It is delivered.",
  target: "re-INVITE and UPDATE replace the remote target. | The Contact of the first INVITE stays.",
  cancel: "64*T1 after a CANCEL without an answer the application gets a 487. | It never hears of the INVITE again.",
  forks: "A 2xx of another branch of a fork is acknowledged and ended. | It counts as a repetition of the first.",
  refer: "A REFER outside of a dialog that nobody routes gets 405. | It gets no answer.",
  routes: "remove_route takes away the verb it names. | It takes away every verb of the connection.",
} as const;

/** Names a row of the table; `Core.imitates` and the wire server ask by it. */
export type Difference = keyof typeof differences;
