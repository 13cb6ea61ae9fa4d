// The request that was made, as curl and as Python.

function python(value) {
  if (value === true) return "True";
  if (value === false) return "False";
  if (value !== null && typeof value === "object")
    return `{\n${Object.entries(value).map(([name, part]) => `        ${JSON.stringify(name)}: ${python(part)},\n`).join("")}    }`;
  return JSON.stringify(value);
}

function showCode(route, body) {
  const base = new URL("v1", location.href).href;
  const json = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  const bearer = key ? ' \\\n  -H "Authorization: Bearer $API_KEY"' : "";
  $("#curl").textContent = `curl ${base}/${route} -H "Content-Type: application/json"${bearer} -d '${json}'`;
  const client = `client = OpenAI(base_url=${JSON.stringify(base)}, api_key=${key ? 'os.environ["API_KEY"]' : '"none"'})\n`;
  const imports = key ? "import os\n\n" : "";
  if (route === "completions") {
    const {model: name, prompt = "", n, seed, max_tokens, temperature, ...more} = body;
    const lines = Object.entries({model: name, prompt, n, seed, max_tokens, temperature}).filter(([, value]) => value !== undefined)
      .map(([field, value]) => `    ${field}=${python(value)},\n`);
    if (Object.keys(more).length) lines.push(`    extra_body=${python(more)},\n`);
    $("#python").textContent = `${imports}from openai import OpenAI\n\n${client}answer = client.completions.create(\n${lines.join("")})\nfor choice in answer.choices:\n    print(choice.text)`;
  } else {
    $("#python").textContent = `${imports}import httpx\nfrom openai import OpenAI\n\n${client}answer = client.post(\n    "/${route}",\n    cast_to=httpx.Response,\n    body=${python(body)},\n)\nfor choice in answer.json()["choices"]:\n    print(choice["text"])`;
  }
  $("#code").hidden = false;
}

async function copy(text, button) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {  // the clipboard is closed to pages that are not from this machine
    button.textContent = "Select it and copy";
  }
  setTimeout(() => { button.textContent = label; }, 1500);
}

for (const button of document.querySelectorAll("[data-copies]"))
  button.addEventListener("click", () => copy(document.getElementById(button.dataset.copies).textContent, button));
