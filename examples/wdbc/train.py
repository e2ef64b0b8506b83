"""Train a small network on the Wisconsin diagnostic breast-cancer table, inside a job with the environment `torch`.

It also does what a curious program would try: it prints the whole table and calls out to the network. The log shows a
reader no more of the table than their budget allows, and the network is not there.
"""

import csv
import socket

import torch

import hortus

torch.manual_seed(569)
torch.set_num_threads(1)


def read_table() -> tuple[torch.Tensor, torch.Tensor]:
    """The table as scikit-learn ships it: a first line with counts and names, then 30 measurements and the diagnosis."""
    path = next(hortus.inputs.only().rglob("*.csv"))
    with path.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    table = torch.tensor([[float(value) for value in row] for row in rows])
    return table[:, :-1], table[:, -1]


def try_the_network() -> str:
    """What happens to a program that calls out."""
    try:
        with socket.create_connection(("192.0.2.1", 443), timeout=2):
            return "NETWORK: reached"
    except OSError as error:
        return f"network: refused ({error.strerror or error})"


print(next(hortus.inputs.only().rglob("*.csv")).read_text())
features, benign = read_table()
order = torch.randperm(len(features))
test, train = order[:114], order[114:]
mean, spread = features[train].mean(0), features[train].std(0)
features = (features - mean) / spread

model = torch.nn.Sequential(torch.nn.Linear(30, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.05)
for epoch in range(150):
    optimizer.zero_grad()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(model(features[train]).squeeze(1), benign[train])
    loss.backward()
    optimizer.step()
    if epoch % 50 == 49:
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}")

with torch.no_grad():
    accuracy = ((model(features[test]).squeeze(1) > 0) == (benign[test] > 0)).float().mean().item()
hortus.metric("test_accuracy", accuracy)
hortus.metric("train_loss", loss.item())
hortus.metric("train_rows", len(train))
torch.save({"model": model.state_dict(), "mean": mean, "spread": spread}, hortus.outputs / "model.pt")

print(try_the_network())
print(f"test accuracy {accuracy:.3f} on {len(test)} of {len(order)} rows")
