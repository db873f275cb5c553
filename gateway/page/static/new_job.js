"use strict";
// The form of a new job. The service turns fields into YAML and YAML into fields; here both are kept
// in step, and nothing that somebody is writing is ever replaced under the hands.
const form = document.getElementById("new");
const yaml = form.elements.yaml, before = form.elements.before, outcome = document.getElementById("outcome");
let asked = 0;

const clean = (text) => text.replace(/\r\n/g, "\n");
const inputs = () => [...form.elements].filter(({ name }) => name.startsWith("f."));
const faultOf = (input) => document.getElementById(`${input.id}-fault`);

function mark(input, text) {
  const place = faultOf(input);
  if (place.textContent !== (text || "")) place.textContent = text || "";
  input.toggleAttribute("aria-invalid", Boolean(text));
  if (text) {
    input.setAttribute("aria-invalid", "true");
    const folded = input.closest("details");
    if (folded) folded.open = true;
  }
}

async function send(deed) {
  const turn = ++asked;
  const was = new Map([...form.elements].map((one) => [one, one.value]));
  if (deed !== "write") outcome.textContent = { validate: "Checking …", estimate: "Checking and estimating …",
    offers: "Asking the providers …", submit: "Handing it over …" }[deed];
  let told;
  try {
    const answer = await fetch(`/new/${deed}`, { method: "POST", body: new URLSearchParams(new FormData(form)) });
    if (!answer.ok) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      throw new Error(page.querySelector('[role="alert"]')?.textContent || `The service answered ${answer.status}.`);
    }
    told = await answer.json();
  } catch (error) {
    outcome.textContent = `${error.message} Nothing of what you wrote is lost.`;
    return;
  }
  if (told.go) { location.assign(told.go); return; }
  if (turn !== asked) return; // something newer is on its way
  mark(yaml, told.yaml_fault);
  if (told.yaml_fault) { if (deed !== "write") outcome.textContent = told.yaml_fault; return; }
  // What was changed meanwhile is sent with the next change, and compared with what was told here.
  if (clean(yaml.value) === clean(was.get(yaml))) yaml.value = told.yaml;
  before.value = told.yaml;
  for (const input of inputs()) {
    const path = input.name.slice(2);
    if (input.value === was.get(input) && clean(input.value) !== told.fields[path]) input.value = told.fields[path];
    mark(input, told.faults[path]);
  }
  if (deed !== "write" || told.faults[""]) outcome.innerHTML = told.outcome;
  if (deed === "write" && told.faults[""]) mark(yaml, told.faults[""]);
  if (deed !== "write") form.querySelector(".fields [aria-invalid]")?.focus();
}

let soon;
const later = (milliseconds) => { clearTimeout(soon); soon = setTimeout(() => send("write"), milliseconds); };
form.addEventListener("input", ({ target }) => later(target === yaml ? 600 : 300));
form.addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(soon);
  send(event.submitter?.value || "validate");
});
