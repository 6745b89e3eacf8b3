import { conformance } from "./suite.ts";

conformance("engine");
