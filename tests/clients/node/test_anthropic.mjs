// Anthropic's own client for Node over Messages.
import assert from 'node:assert/strict'
import test from 'node:test'
import Anthropic from '@anthropic-ai/sdk'
import { ASK, MODELS, PARAMETERS, Weather, key, url } from './shared.mjs'

const client = new Anthropic({ baseURL: url.replace(/\/v1$/, ''), apiKey: key, maxRetries: 0 })
const told = (content) => [{ role: 'user', content }]
const textOf = (message) => message.content.map((block) => (block.type === 'text' ? block.text : '')).join('')
const tools = [{ name: 'forecast', description: 'The weather.', input_schema: PARAMETERS }]

for (const model of MODELS) {
  test(`messages[${model}]`, async () => {
    const made = await client.messages.create({ model, max_tokens: 64, messages: told(ASK) })
    assert.ok(textOf(made))
    assert.equal(made.stop_reason, 'end_turn')
  })

  test(`messages_stream[${model}]`, async () => {
    const stream = client.messages.stream({ model, max_tokens: 64, messages: told(ASK) })
    let text = ''
    stream.on('text', (piece) => (text += piece))
    const final = await stream.finalMessage()
    assert.ok(text)
    assert.equal(text, textOf(final))
  })
}

for (const streamed of [false, true]) {
  test(`messages_tools[${streamed}]`, async () => {
    const weather = new Weather()
    const messages = told(weather.ASK)
    for (;;) {
      const asked = { model: 'double', max_tokens: 256, messages, tools }
      const made = streamed ? await client.messages.stream(asked).finalMessage() : await client.messages.create(asked)
      messages.push({ role: 'assistant', content: made.content })
      if (made.stop_reason !== 'tool_use') {
        weather.check(textOf(made))
        return
      }
      const content = made.content
        .filter((block) => block.type === 'tool_use')
        .map((block) => ({ type: 'tool_result', tool_use_id: block.id, content: weather.forecast(block.input) }))
      messages.push({ role: 'user', content })
    }
  })
}

test('errors are of the client\'s own types', async () => {
  const none = client.messages.create({ model: 'none', max_tokens: 64, messages: told(ASK) })
  await assert.rejects(none, Anthropic.NotFoundError)
})
