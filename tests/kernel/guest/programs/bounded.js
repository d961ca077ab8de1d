// node bounded.js MIB
// Answers requests and keeps the newest sessions, MIB of them.
const perSecond = 5, kib = 64, sessions = new Map();
const numbers = (kib) => Array.from({ length: kib * 128 }, Math.random);
let next = 0;
setInterval(() => {
  sessions.set(next++, numbers(kib));
  if (sessions.size * kib > Number(process.argv[2]) * 1024) sessions.delete(sessions.keys().next().value);
  numbers(400 * Math.random()); // an answer: garbage
}, 1000 / perSecond);
