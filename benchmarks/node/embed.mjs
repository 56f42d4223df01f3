// One call of a JavaScript client. The argument is JSON: {client, url, key, model, texts, dimensions}.
// Prints {"vectors": [...]} or {"error": "..."}.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany } from "ai";
import OpenAI from "openai";

const CLIENTS = {
  async openai({ url, key, model, texts, dimensions }) {
    const client = new OpenAI({ baseURL: url, apiKey: key, maxRetries: 0 });
    const answer = await client.embeddings.create({ model, input: texts, dimensions });
    return answer.data.map((one) => one.embedding);
  },
  async ai({ url, key, model, texts, dimensions }) {
    const router = createOpenAICompatible({ name: "router", baseURL: url, apiKey: key });
    const answer = await embedMany({
      model: router.embeddingModel(model),
      values: texts,
      maxRetries: 0,
      providerOptions: dimensions === undefined ? {} : { router: { dimensions } },
    });
    return answer.embeddings;
  },
};

const call = JSON.parse(process.argv[2]);
try {
  console.log(JSON.stringify({ vectors: await CLIENTS[call.client](call) }));
} catch (error) {
  console.log(JSON.stringify({ error: `${error.message} ${error.responseBody ?? ""}` }));
}
