/** Something a bot asked for did not happen. `code` is stable, for programs. */
export class BotClientError extends Error {
  readonly code: string;
  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** Patchbay answered `rejected`; `code`, `message` and `pointer` are its own. */
export class CommandRejectedError extends BotClientError {
  readonly pointer: string | null;
  constructor(code: string, message: string, pointer: string | null) {
    super(code, message);
    this.pointer = pointer;
  }
}

/** The call is over, so nothing more can be done with it. A callback that ends by it has simply ended with its call. */
export class CallEndedError extends BotClientError {
  constructor(message = "the call is over") {
    super("call_ended", message);
  }
}

/** No instance of Patchbay holds the call any more, and nobody said how it ended. */
export class CallGoneError extends BotClientError {
  constructor() {
    super("call_gone", "no instance of Patchbay holds this call");
  }
}

/** The command was received but not answered, or Redis could not be reached in time. */
export class NoAnswerError extends BotClientError {
  constructor(message: string, options?: ErrorOptions) {
    super("no_answer", message, options);
  }
}

/** An event that does not follow the contract. */
export class BadEventError extends BotClientError {
  constructor(message: string, options?: ErrorOptions) {
    super("bad_event", message, options);
  }
}
