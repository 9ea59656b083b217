const source = new EventSource("events");
source.addEventListener("state", (event) => {
  document.getElementById("state").textContent = event.data;
});
