// One call of a JavaScript client. The argument is JSON: {client, url, key, model, texts, dimensions}.
// Prints {"vectors": [...]} or {"error": "..."}.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany } from "ai";
import OpenAI, { toFile } from "openai";

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
  async batch({ url, key, model, texts }) {
    const client = new OpenAI({ baseURL: url, apiKey: key, maxRetries: 0 });
    const lines = texts.map((input, number) =>
      JSON.stringify({
        custom_id: String(number),
        method: "POST",
        url: "/v1/embeddings",
        body: { model, input },
      }),
    );
    const upload = await toFile(Buffer.from(lines.join("\n")), "in.jsonl");
    const file = await client.files.create({ file: upload, purpose: "batch" });
    let batch = await client.batches.create({
      input_file_id: file.id,
      endpoint: "/v1/embeddings",
      completion_window: "24h",
    });
    const end = Date.now() + 120_000;
    while (["validating", "in_progress", "finalizing"].includes(batch.status)) {
      if (Date.now() > end) throw new Error(`the batch is still ${batch.status}`);
      await new Promise((resolve) => setTimeout(resolve, 200));
      batch = await client.batches.retrieve(batch.id);
    }
    if (!batch.output_file_id) throw new Error(JSON.stringify(batch));
    const output = await (await client.files.content(batch.output_file_id)).text();
    await client.files.delete(file.id);
    await client.files.delete(batch.output_file_id);
    const rows = output.trim().split("\n").map((line) => JSON.parse(line));
    rows.sort((one, other) => one.custom_id - other.custom_id);
    return rows.map((row) => row.response.body.data[0].embedding);
  },
};

const call = JSON.parse(process.argv[2]);
try {
  console.log(JSON.stringify({ vectors: await CLIENTS[call.client](call) }));
} catch (error) {
  console.log(JSON.stringify({ error: `${error.message} ${error.responseBody ?? ""}` }));
}
