import type { Case } from "../case.ts";
import { answeringCases } from "./answering.ts";
import { callingCases } from "./calling.ts";
import { dialogCases } from "./dialog.ts";
import { corpusCases } from "./corpus.ts";
import { linkCases } from "./link.ts";
import { recoveryCases } from "./recovery.ts";
import { sippCases } from "./sipp.ts";

/** The contract tests of the design, in its order. */
export const cases: readonly Case[] = [
  ...linkCases,
  ...answeringCases,
  ...callingCases,
  ...dialogCases,
  ...corpusCases,
  ...recoveryCases,
  ...sippCases,
].toSorted((one, other) => one.id.localeCompare(other.id, "en", { numeric: true }));
