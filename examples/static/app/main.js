const list = document.querySelector("ul");
const input = document.querySelector("input");
const show = (text) => list.append(Object.assign(document.createElement("li"), { textContent: text }));

const socket = new WebSocket(location.href.replace(/^http/, "ws"));
socket.onopen = () => show("open");
socket.onmessage = (event) => show(event.data);
socket.onclose = (event) => show(`closed: ${event.code} ${event.reason}`);

document.querySelector("form").onsubmit = (event) => {
  event.preventDefault();
  socket.send(input.value);
  input.value = "";
};
