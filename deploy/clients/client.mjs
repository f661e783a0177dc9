// Ask theo-router a question from Node. Needs only `npm install redis`.
//
// node client.mjs "Say hi"        REDIS_URL says where Redis is; default redis://127.0.0.1:6379/0
import { randomUUID } from 'node:crypto'
import { createClient } from 'redis'

/** Push one job and wait for its final reply. `fields` are those of a job: model, params, id, ... */
async function ask(server, prompt, fields = {}) {
  const replyTo = `theo:reply:${randomUUID()}` // a stream of this job's own
  await server.xAdd('theo:jobs', '*', { prompt, reply_to: replyTo, ttl_ms: '60000', ...fields })
  let last = '0'
  for (;;) {
    const found = await server.xRead({ key: replyTo, id: last }, { COUNT: 100, BLOCK: 5000 })
    for (const { id, message } of found?.[0].messages ?? []) {
      last = id
      if (message.final !== '1') continue // a delta, of a job with stream = 1
      await server.unlink(replyTo) // else it disappears by itself, after reply.ttl_s
      return message
    }
  }
}

const server = createClient({ url: process.env.REDIS_URL ?? 'redis://127.0.0.1:6379/0' })
server.on('error', (error) => console.error(error.message))
await server.connect() // a client of its own: XREAD BLOCK holds the connection
const reply = await ask(server, process.argv[2], { params: JSON.stringify({ max_tokens: 200 }) })
if (reply.status === 'ok') {
  console.log(reply.output)
  console.log(`${reply.model}, ${reply.completion_tokens} tokens, ${reply.cost} USD`)
} else {
  console.error(`${reply.error_code}: ${reply.error_message} (worth another try: ${reply.error_retryable === '1'})`)
  process.exitCode = 1
}
server.destroy()
