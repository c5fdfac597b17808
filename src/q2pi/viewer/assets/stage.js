// The stage: screens, controls, bars, curve and network input of one or two agents, drawn from the messages of
// viewer/message.py. Every message is acknowledged after it is drawn; a hidden tab does not acknowledge, so it costs nothing.
const SPEEDS = [0.25, 0.5, 1, 2, 4];
const PLAY_KEYS = ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", " "];

const colour = (element, name) => getComputedStyle(element).getPropertyValue(name).trim();
const short = (number) => {
  if (number === null || number === undefined) return "–";
  const size = Math.abs(number);
  if (size >= 1000) return number.toFixed(0);
  if (size >= 100) return number.toFixed(1);
  if (size >= 0.01 || size === 0) return number.toFixed(2);
  return number.toExponential(1);
};

export default {
  props: { url: String, titles: Array },
  template: `
<div class="q-stage" :class="{ two: titles.length > 1 }">
  <section v-for="(title, i) in titles" :key="'screen' + i" class="card screen-card" :style="{ gridArea: 'screen' + i }">
    <header class="row-between">
      <h2>{{ title }}</h2>
      <span class="quiet" v-if="panel(i)">{{ panel(i).algorithm }} on {{ panel(i).env }} · agent step {{ panel(i).checkpoint.toLocaleString("en") }}</span>
    </header>
    <div class="screen" ref="screens" tabindex="0" role="application" :class="{ human: head.human === i }"
      :aria-label="'Screen of ' + title + '. ' + hint(i)"
      @keydown="keydown($event, i)" @keyup="keyup($event)" @blur="release">
      <canvas ref="canvases" width="4" height="3"></canvas>
      <div v-if="head.state === 'loading'" class="over"><span class="spinner" aria-hidden="true"></span>loading the agent …</div>
      <div v-else-if="head.state === 'error'" class="over error"><strong>no agent yet</strong><span>{{ head.error }}</span><span class="quiet">this page looks again every two seconds</span></div>
      <div v-else-if="panel(i) && panel(i).cannot_draw" class="over"><span>{{ panel(i).cannot_draw }}</span><span class="quiet">the numbers below are live</span></div>
      <div v-if="!connected" class="badge left lost">connection lost, trying again …</div>
      <div v-else-if="panel(i) && panel(i).ended" class="badge left">episode ended: return {{ short(panel(i).return) }}</div>
      <div v-if="head.human === i" class="badge right you">you play · {{ panel(i) ? panel(i).keys : "" }}{{ panel(i) && panel(i).waits ? " · it waits for your key" : "" }}</div>
    </div>
    <dl class="numbers">
      <div><dt>step</dt><dd>{{ panel(i) ? panel(i).step.toLocaleString("en") : "–" }}</dd></div>
      <div><dt>return</dt><dd data-test="return">{{ panel(i) ? short(panel(i).return) : "–" }}</dd></div>
      <div><dt>reward</dt><dd>{{ panel(i) ? short(panel(i).reward) : "–" }}</dd></div>
      <div><dt>seed</dt><dd>{{ panel(i) ? panel(i).seed : "–" }}</dd></div>
      <div class="wide"><dt>policy</dt><dd>{{ panel(i) ? (head.human === i ? "you" : panel(i).by === "recording" ? "the recorded actions" : panel(i).policy) : "–" }}</dd></div>
    </dl>
    <p class="note" role="status">{{ note(i) }}</p>
  </section>

  <section class="card transport" style="grid-area: transport" aria-label="Controls">
    <div class="timeline">
      <input type="range" aria-label="Step of the episode" min="0" :max="Math.max(1, total - 1)" :value="dragged === null ? head.position || 0 : dragged" :disabled="!ready" @input="seek(+$event.target.value)" @change="dragged = null">
      <output>{{ (head.position || 0).toLocaleString("en") }} / {{ Math.max(0, total - 1).toLocaleString("en") }}</output>
    </div>
    <div class="buttons">
      <button type="button" class="primary" :disabled="!ready" @click="send('pause', !head.paused)" :aria-pressed="!head.paused">{{ head.paused ? "Play" : "Pause" }}</button>
      <button type="button" :disabled="!ready" @click="send('step', -1)" aria-label="One step back">◂ Back</button>
      <button type="button" :disabled="!ready" @click="send('step', 1)" aria-label="One step forward">Step ▸</button>
      <button type="button" :disabled="!ready" @click="send('next')">Next episode</button>
      <template v-for="(title, i) in titles" :key="'take' + i">
        <button type="button" class="take" :disabled="!ready" @click="take(i)">{{ head.human === i ? "Hand back" : titles.length > 1 ? "Take over " + "AB"[i] : "Take over" }}</button>
      </template>
      <label>speed <select aria-label="speed" :value="head.speed || 1" :disabled="!ready" @change="send('speed', +$event.target.value)">
        <option v-for="s in speeds" :key="s" :value="s">{{ s }} ×</option></select></label>
      <label>seed <input aria-label="seed" type="number" min="0" max="2147483647" step="1" :value="typed === null ? head.seed : typed" :disabled="!ready" @input="typed = $event.target.value" @change="seed($event.target)" @blur="typed = null"></label>
      <label><input type="checkbox" checked :disabled="!ready" @change="send('saliency', $event.target.checked)"> saliency</label>
      <label v-if="titles.length === 1" class="episodes">episode <select aria-label="episode" :value="head.recording === null || head.recording === undefined ? '' : head.recording" :disabled="!ready" @change="send('recording', $event.target.value === '' ? null : +$event.target.value)">
        <option value="">live: the agent plays now</option>
        <option v-for="(label, k) in head.recordings || []" :key="k" :value="k">recorded: {{ label }}</option></select></label>
    </div>
    <p class="note" role="status">{{ head.note || "" }}</p>
  </section>

  <section v-for="(title, i) in titles" :key="'think' + i" class="card think" :style="{ gridArea: 'think' + i }" :aria-label="'What ' + title + ' computes'">
    <header class="row-between"><h3>{{ panel(i) ? panel(i).kind : "Q(s, a) or pi(a|s)" }}</h3>
      <span class="quiet">{{ panel(i) ? (panel(i).kind === "Q(s, a)" ? "bars: minus the mean over actions" : panel(i).kind === "pi(a|s)" ? "bars: 0 to 1" : "") : "" }}</span></header>
    <ul class="bars">
      <li v-for="bar in bars(i)" :key="bar.name" :class="{ chosen: bar.chosen }">
        <span class="name"><span class="mark" aria-hidden="true">{{ bar.chosen ? "▸" : "" }}</span>{{ bar.name }}</span>
        <span class="track"><span class="fill" :style="{ left: bar.left + '%', width: bar.width + '%' }"></span><span class="zero" :style="{ left: bar.zero + '%' }"></span></span>
        <span class="figure">{{ bar.text }}</span>
      </li>
    </ul>
    <template v-if="panel(i) && panel(i).distribution">
      <header class="row-between"><h3>distribution of the return</h3><span class="quiet">red: the chosen action</span></header>
      <canvas class="distribution" ref="distributions" :data-panel="i" role="img" aria-label="Distribution of the return of each action"></canvas>
    </template>
    <header class="row-between"><h3>{{ valueName(i) }}</h3><span class="figure" data-test="value">{{ panel(i) ? short(panel(i).value) : "–" }}</span></header>
    <canvas class="curve" ref="curves" role="img" :aria-label="valueName(i) + ' over the episode'"></canvas>
  </section>

  <section v-for="(title, i) in titles" :key="'sees' + i" class="card sees" :style="{ gridArea: 'sees' + i }" :aria-label="'What ' + title + ' sees'">
    <header class="row-between"><h3>network input{{ panel(i) ? ", " + panel(i).shape.join(" × ") : "" }}</h3><span class="quiet">{{ inputHint(i) }}</span></header>
    <div v-show="isImage(i)" class="tiles">
      <figure class="stack"><canvas ref="stacks" width="336" height="84"></canvas><figcaption><span v-for="age in ages(i)" :key="age">{{ age }}</span></figcaption></figure>
      <figure class="saliency"><canvas ref="saliencies" width="84" height="84" role="img" aria-label="Saliency: pixels that move the value"></canvas><figcaption><span>saliency</span></figcaption></figure>
    </div>
    <table v-if="!isImage(i)" class="vector"><thead><tr><th>input</th><th>number</th><th>|∂value/∂input|</th></tr></thead>
      <tbody><tr v-for="(number, k) in observation(i)" :key="k"><td>s[{{ k }}]</td><td class="figure">{{ short(number) }}</td>
        <td><span class="track"><span class="fill" :style="{ left: 0, width: gradient(i, k) + '%' }"></span></span></td></tr></tbody></table>
  </section>
</div>`,

  data() {
    return { head: { panels: [], state: "loading", paused: false }, connected: true, speeds: SPEEDS, held: [], typed: null, dragged: null };
  },
  computed: {
    ready() { return this.head.state === "ready"; },
    total() { return this.head.total || 0; },
  },
  created() {
    // Not reactive: a long episode has thousands of values.
    this.values = [];
    this.spans = [];
    this.episode = -1;
  },
  mounted() {
    this.closed = false;
    this.connect();
    this.onVisible = () => { if (!document.hidden && this.waiting) { this.waiting = false; this.send("ack"); } };
    document.addEventListener("visibilitychange", this.onVisible);
    this.observer = new ResizeObserver(() => this.drawCurves());
    this.$refs.curves.forEach((canvas) => this.observer.observe(canvas));
  },
  unmounted() {
    this.closed = true;
    document.removeEventListener("visibilitychange", this.onVisible);
    this.observer.disconnect();
    this.socket.close();
  },
  methods: {
    short,
    panel(i) { return this.head.panels[i]; },
    hint(i) {
      const panel = this.panel(i);
      return this.head.human === i ? "You play: " + (panel ? panel.keys : "") + ". Escape hands back." : "Space pauses, arrow keys step, T takes over.";
    },
    note(i) { return (this.head.notes || [])[i] || ""; },
    valueName(i) {
      const panel = this.panel(i);
      if (panel && !panel.estimates) return "value: this agent estimates none";
      return panel && panel.kind !== "Q(s, a)" ? "V(s)" : "max Q(s, a)";
    },
    inputHint(i) {
      if (!this.isImage(i)) return "";
      return "orange: pixels that move the value most";
    },
    isImage(i) { const panel = this.panel(i); return !panel || panel.observation === null; },
    observation(i) { return this.panel(i) ? this.panel(i).observation : []; },
    gradient(i, k) {
      const all = this.panel(i).gradient;
      return all ? (100 * all[k]) / Math.max(1e-12, ...all) : 0;
    },
    ages(i) {
      const count = this.panel(i) ? this.panel(i).stack : 4;
      return Array.from({ length: count }, (_, k) => (k === count - 1 ? "t" : "t − " + (count - 1 - k)));
    },
    bars(i) {
      const panel = this.panel(i);
      if (!panel) return [1, 2, 3, 4].map((k) => ({ name: "\u00a0".repeat(k), left: 0, width: 0, zero: 0, text: "" }));
      const numbers = panel.numbers.map((number) => number ?? 0);
      let lengths = numbers, low = 0, high = 1;
      if (panel.kind === "Q(s, a)") {
        // An action that is not allowed has no Q-value.
        const known = panel.numbers.filter((number) => number !== null);
        const mean = known.reduce((a, b) => a + b, 0) / Math.max(1, known.length);
        lengths = panel.numbers.map((number) => (number === null ? 0 : number - mean));
      }
      if (panel.kind !== "pi(a|s)") {
        // The axis of an episode only grows: bars that rescale at every step cannot be compared.
        const span = this.spans[i] || [0, 0];
        this.spans[i] = [Math.min(span[0], ...lengths), Math.max(span[1], ...lengths)];
        [low, high] = this.spans[i];
        if (high - low < 1e-9) [low, high] = [-1, 1];
      }
      const place = (x) => (100 * (x - low)) / (high - low);
      return lengths.map((length, k) => ({
        name: panel.names[k], chosen: panel.chosen === k, text: short(panel.numbers[k]), zero: place(0),
        left: Math.min(place(0), place(length)), width: Math.abs(place(length) - place(0)),
      }));
    },

    connect() {
      const scheme = location.protocol === "https:" ? "wss" : "ws";
      this.socket = new WebSocket(scheme + "://" + location.host + this.url);
      this.socket.binaryType = "arraybuffer";
      this.socket.onopen = () => { this.connected = true; };
      this.socket.onmessage = (event) => this.receive(event.data);
      this.socket.onclose = (event) => {
        if (this.closed) return;
        this.connected = false;
        // The server does not know this tab any more, for instance because it was started again.
        if (event.code === 4404) location.reload();
        else setTimeout(() => { if (!this.closed) this.connect(); }, 1000);
      };
    },
    send(name, value) {
      if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ do: name, value }));
    },
    async receive(data) {
      const length = new DataView(data).getUint32(0, true);
      const head = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
      const pictures = await Promise.all(head.pictures.map(async (entry) => [
        entry.name, await createImageBitmap(new Blob([new Uint8Array(data, 4 + length + entry.offset, entry.length)], { type: entry.type })),
      ]));
      if (this.closed) return;
      if (head.episode !== this.episode) { this.episode = head.episode; this.values = []; this.spans = []; }
      if (head.values) {
        this.values.length = Math.min(this.values.length, head.values_from);
        this.values.push(...head.values);
        this.values.length = Math.min(this.values.length, head.length);
      }
      this.head = head;
      for (const [name, bitmap] of pictures) this.draw(name, bitmap);
      this.drawCurves();
      this.$nextTick(() => this.drawDistributions());
      if (document.hidden) this.waiting = true;
      else this.send("ack");
    },
    draw(name, bitmap) {
      const [kind, index] = name.split(" ");
      const canvas = { screen: this.$refs.canvases, stack: this.$refs.stacks, saliency: this.$refs.saliencies }[kind][index];
      const context = canvas.getContext("2d", { willReadFrequently: kind !== "screen" });
      if (kind === "saliency") { this.drawSaliency(canvas, context, bitmap, this.$refs.stacks[index]); return; }
      if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) { canvas.width = bitmap.width; canvas.height = bitmap.height; }
      canvas.classList.toggle("pixels", bitmap.width < 320);
      context.drawImage(bitmap, 0, 0);
    },
    // The newest frame, dark, under orange whose opacity is the saliency.
    drawSaliency(canvas, context, bitmap, stack) {
      const { width, height } = bitmap;
      if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
      context.drawImage(bitmap, 0, 0);
      const heat = context.getImageData(0, 0, width, height);
      const frame = stack.getContext("2d").getImageData(stack.width - width, 0, width, height);
      for (let k = 0; k < heat.data.length; k += 4) {
        const strength = heat.data[k] / 255, gray = frame.data[k] * 0.6;
        frame.data[k] = gray + strength * (255 - gray);
        frame.data[k + 1] = gray + strength * (150 - gray);
        frame.data[k + 2] = gray * (1 - strength);
      }
      context.putImageData(frame, 0, 0);
    },
    // Canvas with the resolution of the screen, in CSS pixels.
    surface(canvas) {
      const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
      if (canvas.width !== Math.round(width * ratio)) { canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio); }
      const context = canvas.getContext("2d");
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.clearRect(0, 0, width, height);
      return { context, width, height };
    },
    drawDistributions() {
      for (const canvas of this.$refs.distributions || []) {
        const panel = this.panel(+canvas.dataset.panel);
        if (!canvas.clientWidth || !panel || !panel.distribution) continue;
        const { context, width, height } = this.surface(canvas), { low, high, rows } = panel.distribution;
        const top = Math.max(1e-9, ...rows.flat()), base = height - 18, bin = width / rows[0].length;
        const outline = (row) => {
          context.beginPath();
          context.moveTo(0, base);
          row.forEach((p, k) => { const y = base - (base - 4) * p / top; context.lineTo(k * bin, y); context.lineTo((k + 1) * bin, y); });
          context.lineTo(width, base);
        };
        context.lineWidth = 1.5;
        rows.forEach((row, k) => {
          if (k === panel.chosen) return;
          context.strokeStyle = colour(canvas, "--blue");
          context.globalAlpha = 0.6;
          outline(row);
          context.stroke();
        });
        context.globalAlpha = 1;
        if (panel.chosen !== null && rows[panel.chosen]) {
          context.strokeStyle = context.fillStyle = colour(canvas, "--red");
          outline(rows[panel.chosen]);
          context.stroke();
          context.globalAlpha = 0.25;
          context.fill();
          context.globalAlpha = 1;
        }
        context.fillStyle = colour(canvas, "--quiet");
        context.font = "12px system-ui, sans-serif";
        context.textBaseline = "bottom";
        context.fillText(short(low), 0, height);
        context.textAlign = "right";
        context.fillText(short(high), width, height);
        context.textAlign = "left";
      }
    },
    drawCurves() {
      (this.$refs.curves || []).forEach((canvas, i) => {
        if (!canvas.clientWidth) return;
        const { context, width, height } = this.surface(canvas);
        const values = this.values.map((row) => row[i]), known = values.filter((value) => value !== null);
        if (!known.length) return;
        let low = known[0], high = known[0];
        for (const value of known) { if (value < low) low = value; if (value > high) high = value; }
        const room = 52, span = Math.max(high - low, 1e-9), last = Math.max(30, this.total - 1);
        const x = (t) => 4 + ((width - room - 8) * t) / last, y = (v) => height - 8 - ((height - 16) * (v - low)) / span;
        context.strokeStyle = colour(canvas, "--grid");
        context.lineWidth = 1;
        for (const level of [low, high]) { context.beginPath(); context.moveTo(4, y(level)); context.lineTo(width - room, y(level)); context.stroke(); }
        context.fillStyle = colour(canvas, "--quiet");
        context.font = "12px system-ui, sans-serif";
        context.textBaseline = "middle";
        context.fillText(short(high), width - room + 6, y(high));
        if (high - low > 1e-9) context.fillText(short(low), width - room + 6, y(low));
        context.strokeStyle = colour(canvas, "--blue");
        context.lineWidth = 2;
        context.beginPath();
        const every = Math.max(1, Math.floor(values.length / (2 * width)));
        let pen = false;
        for (let t = 0; t < values.length; t += every) {
          if (values[t] === null) { pen = false; continue; }
          if (pen) context.lineTo(x(t), y(values[t])); else context.moveTo(x(t), y(values[t]));
          pen = true;
        }
        context.stroke();
        const here = values[this.head.position];
        if (here !== null && here !== undefined) {
          context.fillStyle = colour(canvas, "--red");
          context.beginPath();
          context.arc(x(this.head.position), y(here), 4, 0, 7);
          context.fill();
        }
      });
    },

    seed(input) {
      const value = Number(input.value);
      this.typed = null;
      if (input.value !== "" && Number.isInteger(value) && value >= 0 && value < 2147483648) this.send("seed", value);
      else input.value = this.head.seed;
    },
    // Moments that arrive while a person drags or types must not move what is dragged or typed.
    seek(position) {
      this.dragged = position;
      this.send("seek", position);
    },
    take(i) {
      this.send("human", this.head.human === i ? null : i);
      this.held = [];
      if (this.head.human !== i) this.$refs.screens[i].focus();
    },
    keydown(event, i) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (this.head.human === i) {
        if (event.key === "Escape") { this.take(i); event.preventDefault(); return; }
        if (!PLAY_KEYS.includes(event.key) && !/^[1-9]$/.test(event.key)) return;
        event.preventDefault();
        if (!this.held.includes(event.key)) { this.held.push(event.key); this.send("keys", this.held); }
        return;
      }
      const commands = { " ": ["pause", !this.head.paused], ArrowRight: ["step", 1], ArrowLeft: ["step", -1] };
      if (event.key in commands) { event.preventDefault(); this.send(...commands[event.key]); }
      else if (event.key === "t" || event.key === "T") { event.preventDefault(); this.take(i); }
    },
    keyup(event) {
      if (!this.held.includes(event.key)) return;
      this.held = this.held.filter((key) => key !== event.key);
      this.send("keys", this.held);
    },
    release() {
      if (this.held.length) { this.held = []; this.send("keys", []); }
    },
  },
};
