import torch

import scadles

model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
with scadles.join("examples/digits.yaml", model=model, optimizer=optimizer) as device:
    for batch in device.batches():
        device.step(torch.nn.functional.cross_entropy(model(batch.x), batch.y))
if device.rank == 0:
    print(device.summary.model_dump_json(indent=2))
