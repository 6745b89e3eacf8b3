import type { Dialog } from "./dialog.ts";

/**
 * All dialogs of the engine under their two names: the id that applications use, and Call-ID with both tags, which is how
 * the network names them (RFC 3261 §12).
 */
export class DialogTable {
  readonly #byId = new Map<string, Dialog>();
  readonly #byTags = new Map<string, Dialog>();

  get size(): number {
    return this.#byTags.size;
  }

  /** Timers of all dialogs together. */
  get timers(): number {
    let sum = 0;
    for (const dialog of this.#byTags.values()) {
      sum += dialog.timers.size;
    }
    return sum;
  }

  all(): Dialog[] {
    return [...this.#byTags.values()];
  }

  /** False when another dialog has the same id: a call that came back to us through a proxy. */
  add(dialog: Dialog): boolean {
    const present = this.#byId.get(dialog.id);
    if (present !== undefined && present !== dialog) {
      return false;
    }
    this.#byId.set(dialog.id, dialog);
    this.#byTags.set(tagsKey(dialog.callId, dialog.localTag, dialog.remoteTag), dialog);
    return true;
  }

  /** A further early dialog of one INVITE: the id is the same for all branches of a fork, and the first one has it. */
  addFork(dialog: Dialog): void {
    this.#byTags.set(tagsKey(dialog.callId, dialog.localTag, dialog.remoteTag), dialog);
  }

  remove(dialog: Dialog): void {
    dialog.timers.clear();
    if (this.#byId.get(dialog.id) === dialog) {
      this.#byId.delete(dialog.id);
    }
    const key = tagsKey(dialog.callId, dialog.localTag, dialog.remoteTag);
    if (this.#byTags.get(key) === dialog) {
      this.#byTags.delete(key);
    }
  }

  byId(id: string): Dialog | undefined {
    return this.#byId.get(id);
  }

  byTags(callId: string, localTag: string, remoteTag: string): Dialog | undefined {
    return this.#byTags.get(tagsKey(callId, localTag, remoteTag));
  }
}

// Call-IDs and tags hold no blanks, so a blank cannot make two different triples equal.
function tagsKey(callId: string, localTag: string, remoteTag: string): string {
  return `${callId} ${localTag} ${remoteTag}`;
}
