// What a page of the live server shows and plays, by the page's own clock: for the benchmarks, before any script of the page runs.
"use strict";
(() => {
  const probe = (window.tmProbe = { frames: [], mic: [], far: [], clock: null, box: [0, 0, 1, 1] });
  const worklet = `registerProcessor("levels", class extends AudioWorkletProcessor {
    process(inputs) {
      const x = inputs[0][0];
      if (x) {
        let power = 0, tone = 0, tone2 = 0;
        for (let i = 0; i < x.length; i++) {
          power += x[i] * x[i];
          const at = 2 * Math.PI * 3000 * (currentFrame + i) / sampleRate;
          tone += x[i] * Math.cos(at); tone2 += x[i] * Math.sin(at);
        }
        this.port.postMessage([currentTime, Math.sqrt(power / x.length), 2 * Math.hypot(tone, tone2) / x.length]);
      }
      return true;
    }
  });`;
  let context = null;
  const listen = async (stream, into) => {
    if (!context) {
      context = new AudioContext({ sampleRate: 48000, latencyHint: "interactive" });
      probe.ready = context.audioWorklet.addModule(URL.createObjectURL(new Blob([worklet], { type: "text/javascript" })));
      setInterval(() => { probe.clock = context.getOutputTimestamp(); }, 100);
    }
    await probe.ready;
    const node = new AudioWorkletNode(context, "levels");
    node.port.onmessage = (event) => into.push(event.data);
    context.createMediaStreamSource(stream).connect(node).connect(context.destination);
  };
  const media = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async (what) => { const stream = await media(what); listen(stream, probe.mic); return stream; };
  const Peer = window.RTCPeerConnection;
  window.RTCPeerConnection = function (...given) {
    const peer = new Peer(...given);
    peer.addEventListener("track", (event) => { if (event.track.kind === "audio") listen(new MediaStream([event.track]), probe.far); });
    return peer;
  };
  window.RTCPeerConnection.prototype = Peer.prototype;
  const canvas = new OffscreenCanvas(24, 16), drawing = canvas.getContext("2d", { willReadFrequently: true });
  addEventListener("load", () => {
    const video = document.querySelector("[data-testid=video]");
    const shown = (now, meta) => {
      const [x0, y0, x1, y1] = probe.box, w = video.videoWidth, h = video.videoHeight;
      drawing.drawImage(video, x0 * w, y0 * h, (x1 - x0) * w, (y1 - y0) * h, 0, 0, 24, 16);
      const pixels = drawing.getImageData(0, 0, 24, 16).data, grey = [];
      for (let i = 0; i < pixels.length; i += 4) grey.push(Math.round((pixels[i] + pixels[i + 1] + pixels[i + 2]) / 3));
      probe.frames.push([meta.expectedDisplayTime, grey]);
      video.requestVideoFrameCallback(shown);
    };
    video.requestVideoFrameCallback(shown);
  });
})();
