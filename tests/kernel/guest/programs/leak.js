// node leak.js KIB_PER_SECOND
// Answers requests and keeps every session.
const perSecond = 5, sessions = [];
const numbers = (kib) => Array.from({ length: kib * 128 }, Math.random);
setInterval(() => {
  sessions.push(numbers(2 * Math.random() * Number(process.argv[2]) / perSecond));
  numbers(200); // an answer: garbage
}, 1000 / perSecond);
