// An Open Reward Standard server for Node.js without packages, written from the specification alone.
//
//   node specification_server.mjs PORT minimal|whole
//
// minimal: what the specification requires and nothing more: no num_tasks, task, task_range, task_tools, ping,
// delete_session, reason, pings in streams or descriptions; splits as names; secrets in the body; tasks given whole.
// whole: everything, with an id beyond ASCII and gzip for who accepts it.
import { createServer } from "node:http";
import { randomUUID } from "node:crypto";
import { gzipSync } from "node:zlib";

const WHOLE = process.argv[3] === "whole";
const ENVIRONMENT = "counting";
const TASKS = [3, 4, 5, 6].map((target) => ({ target }));
const sessions = new Map();
let opened = 0;

const numberSchema = {
  type: "object",
  properties: { amount: { type: "integer", minimum: 1, maximum: 3 } },
  required: ["amount"],
};
const TOOLS = [
  { name: "add", description: WHOLE ? "Add an amount to the count." : "", input_schema: numberSchema },
  { name: "show_key", description: WHOLE ? "Say whether the key arrived." : "", input_schema: null },
];

class Refusal extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

const text = (words) => [{ type: "text", text: words }];
const ok = (blocks, reward, finished) => ({ ok: true, output: { blocks, reward, finished, metadata: null } });
const refused = (error, reason) => (WHOLE ? { ok: false, error, reason } : { ok: false, error });

function call(session, { name, input }) {
  if (session.finished) return refused("the episode is over", "episode_finished");
  if (name === "show_key") return ok(text(session.secrets.KEY ? "the key is here" : "no key"), null, false);
  if (name !== "add") return refused(`there is no tool ${name}`, "not_found");
  const amount = input?.amount;
  if (!Number.isInteger(amount) || amount < 1 || amount > 3) return refused("amount is 1, 2 or 3", "input_validation");
  session.count += amount;
  const { target } = session.task;
  session.finished = session.count >= target;
  const reward = session.finished ? (session.count === target ? 1 : 0) : null;
  return ok(text(`The count is ${session.count} of ${target}.`), reward, session.finished);
}

function sessionOf(request) {
  const session = sessions.get(request.headers["x-session-id"]);
  if (!session?.task) throw new Refusal(404, "no such session");
  return session;
}

function checkSplit(body) {
  if (body.split !== "train") throw new Refusal(400, "there is no such split");
}

function taskAt(body) {
  checkSplit(body);
  const task = TASKS.at(body.index);
  if (!Number.isInteger(body.index) || !task) throw new Refusal(400, "there is no such task");
  return task;
}

function create(request, body) {
  const session = sessions.get(request.headers["x-session-id"]);
  if (!session) throw new Refusal(404, "no such session");
  if (session.task) throw new Refusal(400, "Session already exists");
  if (body.env_name !== undefined && body.env_name !== ENVIRONMENT) throw new Refusal(404, "no such environment");
  if (!WHOLE && !body.task_spec) throw new Refusal(400, "task_spec is required");
  session.secrets = body.secrets ?? {};
  session.task = body.task_spec ?? taskAt(body);
  return { sid: session.sid };
}

function remove(request) {
  const sid = request.headers["x-session-id"];
  if (!sessions.has(sid)) throw new Refusal(404, "no such session");
  if (WHOLE) sessions.get(sid).task = undefined;
  else sessions.delete(sid);
  return {};
}

function open() {
  const sid = (WHOLE ? "séance-" : "") + randomUUID();
  sessions.set(sid, { sid, count: 0, finished: false });
  opened += 1;
  return { sid };
}

const required = {
  "GET /health": () => ({ status: "ok" }),
  "GET /list_environments": () => [ENVIRONMENT],
  "GET /:env/tools": () => ({ tools: TOOLS }),
  "GET /:env/splits": () => (WHOLE ? [{ name: "train", type: "train" }] : ["train"]),
  "POST /:env/tasks": (request, body) => (checkSplit(body), { tasks: TASKS, env_name: ENVIRONMENT }),
  "POST /create_session": open,
  "POST /create": create,
  "GET /:env/prompt": (request) => text(`Count to ${sessionOf(request).task.target} exactly.`),
  "POST /delete": remove,
  "GET /left": () => ({ left: sessions.size, opened }), // for the tests
};
const further = {
  "POST /:env/num_tasks": (request, body) => (checkSplit(body), { num_tasks: TASKS.length }),
  "POST /:env/task": (request, body) => ({ task: taskAt(body) }),
  "POST /:env/task_range": (request, body) => (checkSplit(body), { tasks: TASKS.slice(body.start, body.stop) }),
  "GET /:env/task_tools": (request) => (sessionOf(request), { tools: TOOLS }),
  "GET /:env/messages": (request) => [
    { role: "user", blocks: text(`Count to ${sessionOf(request).task.target} exactly.`) },
  ],
  "POST /ping": (request) => (sessionOf(request), {}),
  "POST /delete_session": (request) => (sessions.delete(request.headers["x-session-id"]), {}),
};
const routes = WHOLE ? { ...required, ...further } : required;

const readBody = async (request) => {
  let body = "";
  for await (const chunk of request.setEncoding("utf8")) body += chunk;
  if (!body) return {};
  try {
    return JSON.parse(body);
  } catch {
    throw new Refusal(400, "the body is no JSON");
  }
};

function send(request, response, status, value) {
  let body = Buffer.from(JSON.stringify(value));
  const headers = { "Content-Type": "application/json" };
  if (WHOLE && /gzip/.test(request.headers["accept-encoding"] ?? "")) {
    body = gzipSync(body);
    headers["Content-Encoding"] = "gzip";
  }
  response.writeHead(status, { ...headers, "Content-Length": body.length }).end(body);
}

function stream(response, result) {
  response.writeHead(200, { "Content-Type": "text/event-stream" });
  response.write(`event: task_id\ndata: ${randomUUID()}\n\n`);
  if (WHOLE) response.write(": ping\n\n");
  const json = JSON.stringify(result);
  const cut = WHOLE ? Math.floor(json.length / 2) : 0;
  if (cut) response.write(`event: chunk\ndata: ${json.slice(0, cut)}\n\n`);
  response.end(`event: end\ndata: ${json.slice(cut)}\n\n`);
}

async function serve(request, response) {
  const target = WHOLE ? request.url.split("?")[0] : request.url; // the specification has no queries
  const [, first, second] = target.split("/");
  const path = second === undefined ? `/${first}` : `/:env/${second}`;
  const body = await readBody(request);
  if (second !== undefined && decodeURIComponent(first) !== ENVIRONMENT) throw new Refusal(404, "no such environment");
  if (request.method === "POST" && path === "/:env/call") {
    if (typeof body.name !== "string") throw new Refusal(400, "a call has a name");
    stream(response, call(sessionOf(request), body));
    return;
  }
  const route = routes[`${request.method} ${path}`];
  if (!route) throw new Refusal(404, "no such path");
  send(request, response, 200, route(request, body));
}

const server = createServer((request, response) => {
  serve(request, response).catch((error) => send(request, response, error.status ?? 500, { error: error.message }));
});
server.listen(Number(process.argv[2]), "127.0.0.1", () => console.log(server.address().port));
