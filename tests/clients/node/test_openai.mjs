// OpenAI's own client for Node: chat, streams, tools, structured output, embeddings, Responses.
import assert from 'node:assert/strict'
import test from 'node:test'
import OpenAI from 'openai'
import { zodResponseFormat } from 'openai/helpers/zod'
import { z } from 'zod'
import { ASK, MODELS, PARAMETERS, Weather, key, url } from './shared.mjs'

const client = new OpenAI({ baseURL: url, apiKey: key, maxRetries: 0 })
const told = (content) => [{ role: 'user', content }]
const tools = [{ type: 'function', function: { name: 'forecast', parameters: PARAMETERS } }]
const Answer = z.object({ value: z.number().int().min(0).max(999) })

test('models', async () => {
  const ids = []
  for await (const model of client.models.list()) ids.push(model.id)
  for (const name of MODELS) assert.ok(ids.includes(name))
})

for (const model of MODELS) {
  test(`chat[${model}]`, async () => {
    const made = await client.chat.completions.create({ model, messages: told(ASK) })
    assert.ok(made.choices[0].message.content)
    assert.ok(made.usage.total_tokens > 0)
  })

  test(`stream[${model}]`, async () => {
    const options = { stream: true, stream_options: { include_usage: true } }
    const stream = await client.chat.completions.create({ model, messages: told(ASK), ...options })
    let text = ''
    let usage
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? ''
      usage = chunk.usage ?? usage
    }
    assert.ok(text)
    assert.ok(usage.completion_tokens > 0)
  })

  test(`responses[${model}]`, async () => {
    const made = await client.responses.create({ model, input: ASK })
    assert.equal(made.status, 'completed')
    assert.ok(made.output_text)
  })
}

test('tools', async () => {
  const weather = new Weather()
  const messages = told(weather.ASK)
  for (;;) {
    const { message } = (await client.chat.completions.create({ model: 'double', messages, tools })).choices[0]
    messages.push(message)
    if (!message.tool_calls?.length) {
      weather.check(message.content)
      return
    }
    for (const call of message.tool_calls) {
      const content = weather.forecast(JSON.parse(call.function.arguments))
      messages.push({ role: 'tool', tool_call_id: call.id, content })
    }
  }
})

for (const stream of [false, true]) {
  test(`tools_by_the_runner[${stream}]`, async () => {
    const weather = new Weather()
    const forecast = {
      type: 'function',
      function: {
        name: 'forecast',
        description: 'The weather in a city on a day.',
        parameters: PARAMETERS,
        parse: JSON.parse,
        function: (given) => weather.forecast(given),
      },
    }
    const messages = told(weather.ASK)
    const runner = client.chat.completions.runTools({ model: 'double', messages, tools: [forecast], stream })
    weather.check(await runner.finalContent())
  })
}

for (const model of ['jlab-large', 'double']) {
  test(`structured[${model}]`, async () => {
    const format = zodResponseFormat(Answer, 'answer')
    const made = await client.chat.completions.parse({ model, messages: told(ASK), response_format: format })
    assert.equal(typeof made.choices[0].message.parsed.value, 'number')
  })
}

test('embeddings', async () => {
  const made = await client.embeddings.create({ model: 'embed', input: ['one', 'two'] })
  assert.deepEqual(made.data.map((row) => row.embedding.length), [384, 384])
})

test('responses_stream', async () => {
  const kinds = []
  let text = ''
  for await (const event of await client.responses.create({ model: 'double', input: ASK, stream: true })) {
    kinds.push(event.type)
    if (event.type === 'response.output_text.delta') text += event.delta
  }
  assert.equal(kinds[0], 'response.created')
  assert.equal(kinds.at(-1), 'response.completed')
  assert.equal(text, `You wrote: ${ASK}`)
})

test('responses_tools', async () => {
  const weather = new Weather()
  const input = told(weather.ASK)
  const flat = [{ type: 'function', name: 'forecast', parameters: PARAMETERS, strict: true }]
  for (;;) {
    const made = await client.responses.create({ model: 'double', input, tools: flat })
    input.push(...made.output)
    const calls = made.output.filter((item) => item.type === 'function_call')
    if (!calls.length) {
      weather.check(made.output_text)
      return
    }
    for (const call of calls) {
      const output = weather.forecast(JSON.parse(call.arguments))
      input.push({ type: 'function_call_output', call_id: call.call_id, output })
    }
  }
})

test('errors are of the client\'s own types', async () => {
  await assert.rejects(client.chat.completions.create({ model: 'none', messages: told(ASK) }), OpenAI.NotFoundError)
  await assert.rejects(client.chat.completions.create({ model: 'jethro', messages: [] }), OpenAI.BadRequestError)
})
