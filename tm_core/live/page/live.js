"use strict";
const at = (id) => document.getElementById(id);
const token = new URLSearchParams(location.search).get("token");
const headers = token ? { Authorization: `Bearer ${token}` } : {};
const query = token ? `?token=${encodeURIComponent(token)}` : "";
let peer = null, channel = null, microphone = null, meterTimer = null;

const problem = (text) => { at("problem").textContent = text || ""; };

async function asked(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: { ...headers, ...(options.headers || {}) } });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error || answer.statusText);
  return body;
}

function show(state) {
  const words = { listening: "Listening", speaking: "Speaking", waiting: "Thinking", connecting: "Connecting", off: "Not connected" };
  at("state").textContent = words[state] || state;
  at("state").classList.toggle("speaking", state === "speaking");
  const on = state !== "off";
  at("start").disabled = on; at("stop").disabled = !on; at("interrupt").disabled = !on; at("send").disabled = !on;
  at("portrait").disabled = on; at("upload").disabled = on;
  document.querySelector(".stage").classList.toggle("live", on && state !== "connecting");
}

function note(who, text) {
  const line = document.createElement("li"), name = document.createElement("b");
  name.textContent = who === "user" ? "You: " : "Portrait: ";
  line.append(name, text);
  at("transcript").append(line);
  while (at("transcript").children.length > 200) at("transcript").firstChild.remove();
  line.scrollIntoView({ block: "nearest" });
}

function heard(event) {
  if (!channel) return;  // on its way when the conversation was stopped
  const message = JSON.parse(event.data);
  if (message.type === "status") {
    show(message.state);
    if (message.latency_ms !== null) at("latency").textContent = `Answer after: ${(message.latency_ms / 1000).toFixed(2)} s`;
  } else if (message.type === "transcript") note(message.who, message.text);
  else if (message.type === "interrupted") note("avatar", `(interrupted after ${message.position_s.toFixed(1)} s)`);
  else if (message.type === "error") problem(message.text);
  else if (message.type === "ended") { stop(); problem(message.reason); }
}

function watch(stream) {
  const context = new AudioContext(), node = context.createAnalyser(), samples = new Float32Array(1024);
  context.createMediaStreamSource(stream).connect(node);
  meterTimer = setInterval(() => {
    node.getFloatTimeDomainData(samples);
    at("level").value = Math.min(1, 4 * Math.sqrt(samples.reduce((sum, x) => sum + x * x, 0) / samples.length));
  }, 80);
}

async function start() {
  problem(""); show("connecting");
  try {
    peer = new RTCPeerConnection();
    try {
      microphone = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: true, noiseSuppression: true } });
      watch(microphone);
      microphone.getTracks().forEach((track) => peer.addTrack(track, microphone));
    } catch (error) {
      problem("No microphone: you can still type.");
      peer.addTransceiver("audio", { direction: "recvonly" });
    }
    peer.addTransceiver("video", { direction: "recvonly" });
    channel = peer.createDataChannel("control");
    channel.onmessage = heard;
    channel.onopen = () => show("listening");
    const stream = new MediaStream();
    peer.ontrack = (event) => { stream.addTrack(event.track); at("video").srcObject = stream; };
    peer.onconnectionstatechange = () => { if (peer && ["failed", "closed"].includes(peer.connectionState)) stop(); };
    await peer.setLocalDescription(await peer.createOffer());
    await new Promise((done) => {
      if (peer.iceGatheringState === "complete") return done();
      peer.onicegatheringstatechange = () => { if (peer.iceGatheringState === "complete") done(); };
      setTimeout(done, 2000);
    });
    const answer = await asked("offer", {
      method: "POST", headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ sdp: peer.localDescription.sdp, portrait: at("portrait").value }) });
    await peer.setRemoteDescription(answer);
  } catch (error) { stop(); problem(error.message); }
}

function stop() {
  clearInterval(meterTimer); at("level").value = 0;
  if (microphone) microphone.getTracks().forEach((track) => track.stop());
  if (peer) peer.close();
  peer = channel = microphone = null; at("video").srcObject = null; show("off");
}

const tell = (message) => { if (channel && channel.readyState === "open") channel.send(JSON.stringify(message)); };

function chosen() {
  const option = at("portrait").selectedOptions[0];
  if (option) at("still").src = option.dataset.picture || `portraits/${encodeURIComponent(option.value)}${query}`;
}

at("start").onclick = start;
at("stop").onclick = stop;
at("interrupt").onclick = () => tell({ type: "interrupt" });
at("form").onsubmit = (event) => {
  event.preventDefault();
  const text = at("text").value.trim();
  if (text) { tell({ type: "text", text }); at("text").value = ""; }
};
at("portrait").onchange = chosen;
at("upload").onchange = async () => {
  const file = at("upload").files[0];
  if (!file) return;
  problem("");
  try {
    const found = await asked("portraits", { method: "POST", body: file });
    const option = new Option(file.name, found.name, true, true);
    option.dataset.picture = URL.createObjectURL(file);
    at("portrait").add(option); chosen();
    if (found.warnings.length) problem(`This face ${found.warnings.join("; ")}: it may not talk well.`);
  } catch (error) { problem(error.message); }
};
addEventListener("pagehide", stop);
show("off");
asked("portraits").then((names) => { names.forEach((name) => at("portrait").add(new Option(name, name))); chosen(); }, (error) => problem(error.message));
