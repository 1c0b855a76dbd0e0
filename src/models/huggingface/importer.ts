import type { Model } from "../../contracts/index.js";
import type { DocumentContext } from "../context.js";
import type { ConfigFields } from "./fields.js";

/** Builds the document of one family of configurations. */
export type Importer = (fields: ConfigFields, context: DocumentContext) => Model;
