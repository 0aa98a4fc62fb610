// Vercel's AI SDK: its provider for compatible endpoints, and OpenAI's, which speaks Responses by default.
import assert from 'node:assert/strict'
import test from 'node:test'
import { createOpenAI } from '@ai-sdk/openai'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { Output, embedMany, generateText, stepCountIs, streamText, tool } from 'ai'
import { z } from 'zod'
import { ASK, MODELS, Weather, key, url } from './shared.mjs'

const compatible = createOpenAICompatible({
  name: 'jethro',
  baseURL: url,
  apiKey: key,
  includeUsage: true,
  supportsStructuredOutputs: true,
})
const openai = createOpenAI({ baseURL: url, apiKey: key })
const WAYS = { compatible: (model) => compatible(model), chat: (model) => openai.chat(model) }
const Answer = z.object({ value: z.number().int().min(0).max(999) })

const forecasting = (weather) => ({
  forecast: tool({
    description: 'The weather in a city on a day.',
    inputSchema: z.object({ city: z.string(), day: z.number().int().min(0) }),
    execute: async (given) => weather.forecast(given),
  }),
})

const ways = [...Object.entries(WAYS), ['responses', (model) => openai(model)]]

for (const [way, provide] of ways) {
  const named = (call) => (way === 'responses' ? `responses_${call}` : call)
  for (const model of MODELS) {
    test(`${named('chat')}[${way}-${model}]`, async () => {
      const made = await generateText({ model: provide(model), prompt: ASK, maxRetries: 0 })
      assert.ok(made.text)
      assert.ok(made.usage.outputTokens > 0)
    })

    test(`${named('stream')}[${way}-${model}]`, async () => {
      const failures = []
      const onError = ({ error }) => failures.push(error)
      const made = streamText({ model: provide(model), prompt: ASK, maxRetries: 0, onError })
      let text = ''
      for await (const piece of made.textStream) text += piece
      assert.deepEqual(failures, [])
      assert.ok(text)
      assert.ok((await made.usage).outputTokens > 0)
    })
  }

  test(`${named('tools')}[${way}]`, async () => {
    const weather = new Weather()
    const made = await generateText({
      model: provide('double'),
      prompt: weather.ASK,
      tools: forecasting(weather),
      stopWhen: stepCountIs(8),
      maxRetries: 0,
    })
    weather.check(made.text)
    const messages = [{ role: 'user', content: weather.ASK }, ...made.response.messages, { role: 'user', content: ASK }]
    assert.ok((await generateText({ model: provide('double'), messages, maxRetries: 0 })).text)
  })

  test(`${named('tools_streamed')}[${way}]`, async () => {
    const weather = new Weather()
    const failures = []
    const made = streamText({
      model: provide('double'),
      prompt: weather.ASK,
      tools: forecasting(weather),
      stopWhen: stepCountIs(8),
      maxRetries: 0,
      onError: ({ error }) => failures.push(error),
    })
    await made.consumeStream()
    assert.deepEqual(failures, [])
    weather.check(await made.text)
  })

  for (const model of ['jlab-large', 'double']) {
    test(`${named('structured')}[${way}-${model}]`, async () => {
      const output = Output.object({ schema: Answer })
      const made = await generateText({ model: provide(model), prompt: ASK, output, maxRetries: 0 })
      assert.equal(typeof made.output.value, 'number')
    })
  }
}

for (const [way, model] of Object.entries({
  compatible: compatible.embeddingModel('embed'),
  openai: openai.embedding('embed'),
})) {
  test(`embeddings[${way}]`, async () => {
    const { embeddings } = await embedMany({ model, values: ['one', 'two'], maxRetries: 0 })
    assert.deepEqual(embeddings.map((row) => row.length), [384, 384])
  })
}
