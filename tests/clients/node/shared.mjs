// Where the endpoint is, and a tool that the model behind `double` calls five times.
import assert from 'node:assert/strict'

export const url = process.env.JETHRO_CLIENTS_URL
export const key = process.env.JETHRO_CLIENTS_KEY
export const ASK = 'what is 40 + 2?'
export const MODELS = ['jethro', 'jlab-large', 'double']
const TURNS = 5

export class Weather {
  ASK = 'How is the weather in the next days?'
  calls = []

  forecast({ city, day }) {
    this.calls.push([city, day])
    return `${this.calls.length + 16} degrees in ${city} on day ${day}`
  }

  check(text) {
    assert.equal(new Set(this.calls.map(String)).size, TURNS)
    assert.equal(this.calls.length, TURNS)
    const [city, day] = this.calls.at(-1)
    assert.equal(text, `After ${TURNS} turns: ${TURNS + 16} degrees in ${city} on day ${day}`)
  }
}

export const PARAMETERS = {
  type: 'object',
  properties: { city: { type: 'string' }, day: { type: 'integer' } },
  required: ['city', 'day'],
  additionalProperties: false,
}
