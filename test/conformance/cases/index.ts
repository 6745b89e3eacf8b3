import type { Case } from "../case.ts";
import { answeringCases } from "./answering.ts";
import { callingCases } from "./calling.ts";
import { dialogCases } from "./dialog.ts";
import { linkCases } from "./link.ts";

/** The contract tests of the design, in its order. */
export const cases: readonly Case[] = [...linkCases, ...answeringCases, ...callingCases, ...dialogCases].toSorted(
  (one, other) => one.id.localeCompare(other.id, "en", { numeric: true }),
);
