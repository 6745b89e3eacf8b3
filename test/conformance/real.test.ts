// Only where PATCHBAY_TEST_DRACHTIO names a drachtio-server: otherwise the whole file counts as one test that is skipped.
import { test } from "vitest";

import { drachtioProgram, noDrachtio } from "../support/drachtio.ts";
import { conformance } from "./suite.ts";

if (drachtioProgram === undefined) test("the cases on a drachtio-server", (context) => context.skip(noDrachtio));
else conformance("real");
