// Lints OpenAPI documents by all rules of Redocly (recommended) and Spectral (spectral:oas), warnings too.
// Usage: node lint.mjs FILE... Prints a line for each finding, which begins with the file.
import { readFileSync } from "node:fs";

import { createConfig, lint } from "@redocly/openapi-core";
import spectralCore from "@stoplight/spectral-core";
import rulesets from "@stoplight/spectral-rulesets";

const config = await createConfig({ extends: ["recommended"] });
const spectral = new spectralCore.Spectral();
spectral.setRuleset({ extends: [rulesets.oas] });

for (const file of process.argv.slice(2)) {
  for (const { ruleId, message, location } of await lint({ ref: file, config })) {
    console.log(`${file} redocly ${ruleId} ${location[0]?.pointer ?? ""}: ${message}`);
  }
  for (const { code, message, path } of await spectral.run(readFileSync(file, "utf8"))) {
    console.log(`${file} spectral ${code} ${path.join("/")}: ${message}`);
  }
}
