// Every check of the page, against the stand-in server and against OMNI (build/omni). usage: OMNI_NODE_ENV=FOLDER node check.mjs [--screenshots FOLDER] [WORD...]
import { end, runTests } from "./harness.mjs";
import { picturesTo } from "./screens.mjs";
import "./chat.mjs";
import "./media.mjs";
import "./history.mjs";
import "./handsfree.mjs";
import "./real.mjs";

const words = process.argv.slice(2);
const at = words.indexOf("--screenshots");
if (at >= 0) picturesTo(words.splice(at, 2)[1]);
const passed = await runTests(words);
await end();
process.exit(passed ? 0 : 1);
