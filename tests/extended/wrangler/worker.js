// D1's HTTP API over the bindings of a local worker: the engine and its limits are Cloudflare's, the shell is ours.
const ROUTE = /^\/client\/v4\/accounts\/([^/]+)\/d1\/database\/([^/]+)\/(query|raw)$/;

function answer(status, result, errors = []) {
  return Response.json({ success: status === 200, errors, messages: [], result }, { status });
}

function refuse(status, code, message) {
  return answer(status, null, [{ code, message: message.replace(/^D1_ERROR: /, '') }]);
}

async function columns(statement, found) {
  if (found.results.length) return Object.keys(found.results[0]);
  if (found.meta.changed_db || !statement.reads) return [];
  return (await statement.made.raw({ columnNames: true }))[0];
}

export default {
  async fetch(request, env) {
    const route = ROUTE.exec(new URL(request.url).pathname);
    if (!route) return refuse(404, 7003, 'Could not route to this path');
    if (request.headers.get('authorization') !== 'Bearer ' + env.TOKEN) {
      return refuse(401, 10000, 'Authentication error');
    }
    const [, account, id, form] = route;
    const database = account === env.ACCOUNT && env[env.DATABASES[id]];
    if (!database) return refuse(404, 7404, 'The database was not found');
    const asked = await request.json();
    try {
      const statements = (asked.batch || [asked]).map(({ sql, params = [] }) => {
        if (!params.every((one) => typeof one === 'string')) throw new Error('params: expected text');
        const made = params.length ? database.prepare(sql).bind(...params) : database.prepare(sql);
        return { made, reads: /^\s*(select|with|pragma)/i.test(sql) };
      });
      const found = await database.batch(statements.map((one) => one.made));
      const results = [];
      for (const [at, one] of found.entries()) {
        const rows = form === 'query' ? one.results : {
          columns: await columns(statements[at], one), rows: one.results.map((row) => Object.values(row)),
        };
        results.push({ results: rows, success: true, meta: one.meta });
      }
      return answer(200, results);
    } catch (error) {
      return refuse(400, 7500, error.message);
    }
  },
};
