/* The page: conversations in localStorage, answers streamed from /v1/chat/completions, and a view of
 * the machine from /status. */
"use strict";

const $ = (id) => document.getElementById(id);
const STORE = "offering.conversations", SETTINGS = "offering.settings";
const IDEAS = ["Explain how a heat pump works.", "Write a short poem about the first snow.",
    "Write a Python function that reverses the words of a sentence."];
const DEFAULTS = { system: "", temperature: 0.6, top_p: 0.9, max_tokens: "", seed: "", theme: "auto", key: "" };

function load(name, otherwise) {
    try {
        return JSON.parse(localStorage.getItem(name)) ?? otherwise;
    } catch {
        return otherwise;
    }
}

const settings = { ...DEFAULTS, ...load(SETTINGS, {}) };
let conversations = load(STORE, []);
let current = null;   /* a conversation: {id, title, messages: [{role, content, note}]} */
let running = null;   /* {controller, conversation} of the answer that streams */
let drawn = null;     /* the conversation on the page */
let atEnd = true;     /* the newest text is in view, and stays so while text comes and the window changes */

function save() {
    try {
        localStorage.setItem(STORE, JSON.stringify(conversations.slice(0, 200)));
        localStorage.setItem(SETTINGS, JSON.stringify(settings));
    } catch {
        showError("The browser's storage is full: delete some conversations.");
    }
}

function make(name, properties, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
}

function showError(text) {
    $("error").textContent = text;
    $("error").hidden = !text;
}

function headers() {
    const made = { "Content-Type": "application/json" };
    if (settings.key)
        made.Authorization = "Bearer " + settings.key;
    return made;
}

/* ---- conversations ---- */

function begin() {
    const empty = conversations.find((c) => c.messages.length === 0);
    current = empty ?? { id: crypto.randomUUID?.() ?? String(Date.now() + Math.random()), title: "New conversation", messages: [] };
    if (!empty)
        conversations.unshift(current);
    drawAll();
    $("input").focus();
}

function remove(conversation) {
    if (running?.conversation === conversation)
        running.controller.abort();
    conversations = conversations.filter((c) => c !== conversation);
    if (current === conversation)
        current = conversations[0] ?? null;
    save();
    if (current)
        drawAll();
    else
        begin();
}

function drawConversations() {
    $("conversations").replaceChildren(...conversations.map((conversation) => {
        const pick = make("button", { type: "button", className: "pick", textContent: conversation.title });
        if (conversation === current)
            pick.setAttribute("aria-current", "true");
        pick.addEventListener("click", () => {
            current = conversation;
            openSidebar(false);
            drawAll();
        });
        const drop = make("button", { type: "button", className: "icon", textContent: "\u2715" });
        drop.setAttribute("aria-label", "Delete the conversation " + conversation.title);
        drop.addEventListener("click", () => remove(conversation));
        return make("li", {}, pick, drop);
    }));
}

/* ---- messages ---- */

function drawMessage(message, index) {
    const body = make("div", { className: "body" });
    if (message.role === "user")
        body.textContent = message.content;
    else
        body.replaceChildren(...Markdown.render(message.content));
    const foot = make("div", { className: "foot" });
    const last = index === current.messages.length - 1;
    if (message.note)
        foot.append(make("span", { className: "quiet", textContent: message.note }));
    if (message.role === "assistant" && !message.streaming) {
        foot.append(Markdown.copyButton(message.content, "Copy the answer"));
    }
    /* Also after a message that got no answer: a failure is no dead end. */
    if (last && !running) {
        const again = make("button", { type: "button", className: "small", textContent: message.role === "user" ? "Try again" : "Regenerate" });
        again.addEventListener("click", regenerate);
        foot.append(again);
    }
    const who = make("div", { className: "who", textContent: message.role === "user" ? "You" : "Model" });
    const article = make("article", { className: "message " + message.role }, who, body, foot);
    article.setAttribute("aria-label", message.role === "user" ? "Your message" : "Answer");
    if (message.streaming)
        body.classList.add("cursor");
    return article;
}

function drawMessages() {
    const box = $("messages");
    const place = drawn === current && !atEnd ? box.scrollTop : null;
    drawn = current;
    if (current.messages.length === 0) {
        box.replaceChildren(drawEmpty());
        return;
    }
    box.replaceChildren(...current.messages.map(drawMessage));
    box.scrollTop = place ?? box.scrollHeight;
    atEnd = place === null;
}

function drawEmpty() {
    const ideas = IDEAS.map((text) => {
        const button = make("button", { type: "button", textContent: text });
        button.addEventListener("click", () => {
            $("input").value = text;
            grow();
            $("input").focus();
        });
        return make("li", {}, button);
    });
    return make("div", { className: "empty" }, make("h2", { textContent: "What shall it be?" }),
        make("p", { textContent: "Everything runs on this machine; nothing leaves it." }), make("ul", {}, ...ideas),
        make("p", { className: "quiet" }, make("kbd", { textContent: "Enter" }), " sends, ", make("kbd", { textContent: "Shift" }), " + ",
            make("kbd", { textContent: "Enter" }), " begins a line, ", make("kbd", { textContent: "Esc" }), " stops an answer."));
}

function drawAll() {
    $("title").textContent = current.title;
    drawConversations();
    drawMessages();
    drawRunning();
}

function drawRunning() {
    const here = running?.conversation === current;
    $("stop").hidden = !here;
    $("send").hidden = here;
    $("send").disabled = running !== null && !here;
}

/* ---- answers ---- */

function makeBody(conversation) {
    const messages = conversation.messages.filter((m) => !m.streaming).map(({ role, content }) => ({ role, content }));
    if (settings.system)
        messages.unshift({ role: "system", content: settings.system });
    const body = { messages, stream: true, stream_options: { include_usage: true }, temperature: Number(settings.temperature), top_p: Number(settings.top_p) };
    if (settings.max_tokens !== "")
        body.max_completion_tokens = Number(settings.max_tokens);
    if (settings.seed !== "")
        body.seed = Number(settings.seed);
    return body;
}

/* Calls `take` with the JSON of each event. */
async function readEvents(response, take) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
        const { value, done } = await reader.read();
        if (done)
            return;
        const events = (rest + value).split("\n\n");
        rest = events.pop();
        for (const event of events)
            for (const line of event.split("\n"))
                if (line.startsWith("data: ") && line !== "data: [DONE]")
                    take(JSON.parse(line.slice(6)));
    }
}

async function failure(response) {
    try {
        return (await response.json()).error.message;
    } catch {
        return "The server answered " + response.status + ".";
    }
}

async function answer(conversation) {
    const message = { role: "assistant", content: "", streaming: true };
    const controller = new AbortController();
    let usage = null, reason = null, first = 0, drawnAt = 0, timer = 0;
    const start = performance.now();
    running = { controller, conversation };
    conversation.messages.push(message);
    drawAll();
    const draw = () => {
        timer = 0;
        drawnAt = performance.now();
        if (current !== conversation)
            return;
        const box = $("messages");
        box.lastElementChild?.querySelector(".body")?.replaceChildren(...Markdown.render(message.content));
        if (atEnd)
            box.scrollTop = box.scrollHeight;
    };
    try {
        const response = await fetch("/v1/chat/completions", { method: "POST", headers: headers(), body: JSON.stringify(makeBody(conversation)), signal: controller.signal });
        if (!response.ok)
            throw new Error(await failure(response));
        await readEvents(response, (event) => {
            if (event.error)
                throw new Error(event.error.message);
            usage = event.usage ?? usage;
            const choice = event.choices?.[0];
            reason = choice?.finish_reason ?? reason;
            if (choice?.delta?.content) {
                first ||= performance.now();
                message.content += choice.delta.content;
                timer ||= setTimeout(draw, Math.max(0, 60 - (performance.now() - drawnAt)));
            }
        });
    } catch (error) {
        if (error.name === "AbortError")
            reason = "stopped";
        else
            showError(error.message === "Failed to fetch" ? "The server does not answer." : error.message);
    }
    clearTimeout(timer);
    finish(conversation, message, { usage, reason, first, start });
}

function finish(conversation, message, { usage, reason, first, start }) {
    const seconds = first ? (performance.now() - first) / 1000 : 0;
    const parts = [];
    if (usage && usage.completion_tokens > 1 && seconds > 0)
        parts.push(`${usage.completion_tokens} tokens, ${((usage.completion_tokens - 1) / seconds).toFixed(1)} tok/s, first after ${((first - start) / 1000).toFixed(2)} s`);
    if (usage?.prompt_tokens_details?.cached_tokens)
        parts.push(`${usage.prompt_tokens_details.cached_tokens} of ${usage.prompt_tokens} prompt tokens reused`);
    if (reason === "length")
        parts.push("cut at its length");
    if (reason === "stopped")
        parts.push("stopped");
    message.note = parts.join("; ");
    delete message.streaming;
    if (!message.content)
        conversation.messages = conversation.messages.filter((m) => m !== message);
    running = null;
    save();
    drawAll();
    $("announce").textContent = message.content ? "The answer is complete: " + message.content.slice(0, 400) : "There is no answer.";
}

function regenerate() {
    if (running)
        return;
    if (current.messages.at(-1)?.role === "assistant")
        current.messages.pop();
    showError("");
    atEnd = true;
    answer(current);
}

function send() {
    const text = $("input").value.trim();
    if (!text || running)
        return;
    showError("");
    if (current.messages.length === 0)
        current.title = text.replace(/\s+/g, " ").slice(0, 60);
    current.messages.push({ role: "user", content: text });
    conversations = [current, ...conversations.filter((c) => c !== current)];
    $("input").value = "";
    grow();
    save();
    atEnd = true;
    answer(current);
}

function grow() {
    const input = $("input");
    input.style.height = "auto";
    input.style.height = input.scrollHeight + 2 + "px";
}

/* ---- the machine ---- */

let lastStatus = null, statusTimer = 0;
const history = [];

function bytes(n) {
    return n >= 2 ** 30 ? (n / 2 ** 30).toFixed(2) + " GiB" : (n / 2 ** 20).toFixed(0) + " MiB";
}

function figures(rows) {
    const made = make("dl", {});
    for (const [name, value] of rows)
        if (value !== null && value !== undefined)
            made.append(make("dt", { textContent: name }), make("dd", { textContent: value }));
    return made;
}

function meter(label, share) {
    const fill = make("span", {});
    fill.style.width = Math.min(100, share * 100).toFixed(1) + "%";
    const made = make("div", { className: "meter" }, fill);
    made.setAttribute("role", "meter");
    made.setAttribute("aria-label", label);
    made.setAttribute("aria-valuemin", "0");
    made.setAttribute("aria-valuemax", "100");
    made.setAttribute("aria-valuenow", (share * 100).toFixed(0));
    return made;
}

function spark(values, label) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    const top = Math.max(1, ...values);
    svg.setAttribute("viewBox", "0 0 100 30");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("class", "spark");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", label);
    line.setAttribute("points", values.map((v, i) => `${(i * 100 / Math.max(1, values.length - 1)).toFixed(1)},${(29 - v / top * 28).toFixed(1)}`).join(" "));
    svg.append(line);
    return svg;
}

/* Tokens per second of a phase since the last look; 0 when it rests. */
function rate(status, tokens) {
    const ms = lastStatus ? status.now_ms - lastStatus.now_ms : 0;
    return ms > 0 ? Math.max(0, status[tokens] - lastStatus[tokens]) * 1000 / ms : 0;
}

/* What a device does by the plan: "prefill=openvino:NPU@0-4,cpu@4-,decode=cpu"; a part without a phase
 * continues the one before it. */
function phaseOf(name, plan) {
    const phases = new Map();
    let phase = "";
    for (const part of (plan ?? "").split(",")) {
        const equals = part.indexOf("=");
        if (equals >= 0)
            phase = part.slice(0, equals);
        const [device, layers] = part.slice(equals + 1).split("@");
        if (device.toLowerCase() === name.toLowerCase())
            phases.set(phase, layers ? `${phase} (layers ${layers.replace("-", "\u2013")})` : phase);
    }
    return [...phases.values()].join(" and ") || "idle";
}

function told(value, digits, unit) {
    return typeof value === "number" ? value.toFixed(digits) + unit : "not told";
}

function drawDevices(status) {
    const nodes = [], health = status.executive?.health, devices = health?.devices ?? [];
    for (const worker of status.executive?.workers ?? []) {
        const device = devices.find((d) => d.name === worker.name) ?? {};
        nodes.push(make("h3", { textContent: worker.device || worker.name }));
        nodes.push(figures([
            ["phase", phaseOf(worker.name, status.plan)],
            ["state", worker.state],
            ["condition", device.condition ? (device.reason ? `${device.condition}: ${device.reason}` : device.condition) : null],
            ["memory", bytes(worker.resident_bytes)],
            ["power", told(device.power_w, 1, " W")],
            ["temperature", told(device.temperature_c, 0, " \u00b0C")],
            ["restarts", String(worker.restarts)],
        ]));
    }
    if (typeof health?.energy_per_token_j === "number")
        nodes.push(figures([["energy per token", told(health.energy_per_token_j, 2, " J")]]));
    return nodes;
}

function drawMachine(status) {
    const decode = rate(status, "generated_tokens"), prefill = rate(status, "prefill_tokens");
    history.push(decode);
    if (history.length > 60)
        history.shift();
    const capacity = status.slots.length * status.context;
    const kept = status.slots.reduce((sum, slot) => sum + slot.tokens, 0);
    const busy = status.slots.filter((slot) => slot.state !== "free").length;
    const slots = make("ul", { className: "slots" }, ...status.slots.map((slot, i) => {
        const item = make("li", { title: `slot ${i}: ${slot.state}, ${slot.tokens} tokens`, className: slot.state === "free" ? (slot.tokens ? "kept" : "") : slot.state });
        item.append(make("span", { className: "hidden-text", textContent: item.title }));
        return item;
    }));
    $("machine-body").replaceChildren(
        make("h3", { textContent: "Speed" }),
        figures([["decode", decode.toFixed(1) + " tok/s"], ["prefill", prefill.toFixed(0) + " tok/s"],
            ["first token, median", (status.first_token_s.p50 * 1000).toFixed(0) + " ms"],
            ["answers running", `${status.running} (${status.waiting} wait)`]]),
        spark(history, "Decode speed of the last minute"),
        make("h3", { textContent: `Slots (${busy} of ${status.slots.length} busy)` }), slots,
        make("h3", { textContent: "KV cache" }),
        meter("KV cache in use", capacity ? kept / capacity : 0),
        figures([["tokens kept", `${kept} of ${capacity}`], ["committed", status.executive ? bytes(status.executive.kv_committed_bytes) : null],
            ["prompt tokens reused", `${status.reused_tokens} of ${status.prompt_tokens}`]]),
        ...drawDevices(status),
        make("h3", { textContent: "Server" }),
        figures([["model", status.model], ["plan", status.plan], ["weights", status.executive ? bytes(status.executive.weight_bytes) : null],
            ["version", status.version], ["up", Math.floor(status.uptime_ms / 60000) + " min"]]));
    lastStatus = status;
}

async function pollStatus() {
    clearTimeout(statusTimer);
    if ($("machine").hidden || document.hidden)
        return;
    try {
        const response = await fetch("/status", { headers: headers() });
        if (!response.ok)
            throw new Error(await failure(response));
        drawMachine(await response.json());
    } catch (error) {
        $("machine-body").replaceChildren(make("p", { textContent: "No figures: " + error.message }));
    }
    statusTimer = setTimeout(pollStatus, 1000);
}

function openMachine(open) {
    $("machine").hidden = !open;
    $("toggle-machine").setAttribute("aria-expanded", String(open));
    if (open) {
        pollStatus();
        $("close-machine").focus();
    } else {
        $("toggle-machine").focus();
    }
}

/* ---- settings and the rest ---- */

function openSidebar(open) {
    $("sidebar").classList.toggle("open", open);
    $("open-sidebar").setAttribute("aria-expanded", String(open));
    if (open)
        $("new-chat").focus();
}

function applyTheme() {
    if (settings.theme === "auto")
        delete document.documentElement.dataset.theme;
    else
        document.documentElement.dataset.theme = settings.theme;
}

function openSettings() {
    for (const name of Object.keys(DEFAULTS))
        $("s-" + name).value = settings[name];
    $("settings").showModal();
}

function closeSettings() {
    for (const name of Object.keys(DEFAULTS))
        settings[name] = $("s-" + name).value;
    for (const name of ["temperature", "top_p"])
        if (settings[name] === "" || !Number.isFinite(Number(settings[name])))
            settings[name] = DEFAULTS[name];
    applyTheme();
    save();
    loadModel();
}

async function loadModel() {
    try {
        const response = await fetch("/v1/models", { headers: headers() });
        if (!response.ok)
            throw new Error(await failure(response));
        $("model").textContent = (await response.json()).data[0].id;
        showError("");
    } catch (error) {
        showError(error.message === "Failed to fetch" ? "The server does not answer." : error.message);
    }
}

$("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
});
$("input").addEventListener("input", grow);
$("input").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        send();
    }
});
$("stop").addEventListener("click", () => running?.controller.abort());
$("new-chat").addEventListener("click", () => {
    openSidebar(false);
    begin();
});
$("open-sidebar").addEventListener("click", () => openSidebar(!$("sidebar").classList.contains("open")));
$("close-sidebar").addEventListener("click", () => {
    openSidebar(false);
    $("open-sidebar").focus();
});
$("toggle-machine").addEventListener("click", () => openMachine($("machine").hidden));
$("close-machine").addEventListener("click", () => openMachine(false));
$("open-settings").addEventListener("click", openSettings);
$("settings").addEventListener("close", closeSettings);
$("delete-all").addEventListener("click", () => {
    if (!confirm("Delete all conversations of this browser?"))
        return;
    running?.controller.abort();
    conversations = [];
    $("settings").close();
    begin();
    save();
});
document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || $("settings").open)
        return;
    if ($("sidebar").classList.contains("open"))
        $("close-sidebar").click();
    else
        running?.controller.abort();
});
$("messages").addEventListener("scroll", () => {
    const box = $("messages");
    atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 80;
});
new ResizeObserver(() => {
    if (atEnd)
        $("messages").scrollTop = $("messages").scrollHeight;
}).observe($("messages"));
/* Another tab has written: what it has is shown here, too. An answer that streams here is kept. */
window.addEventListener("storage", (event) => {
    if (event.key !== STORE || running)
        return;
    conversations = load(STORE, []);
    current = conversations.find((c) => c.id === current?.id) ?? conversations[0] ?? null;
    if (current)
        drawAll();
    else
        begin();
});
document.addEventListener("visibilitychange", pollStatus);

for (const conversation of conversations)
    for (const message of conversation.messages)
        delete message.streaming;
applyTheme();
loadModel();
current = conversations[0] ?? null;
if (current)
    drawAll();
else
    begin();
