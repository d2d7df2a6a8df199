from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models


@pytest.fixture(scope="session")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """A fine-tuned ResNet-18 of five classes in a safetensors file."""
    torch.manual_seed(0)
    model = models.resnet18(num_classes=5)
    path = tmp_path_factory.mktemp("resnet") / "resnet.safetensors"
    save_file(model.state_dict(), path)
    return model.eval(), path
