"""One adapter per vision-language model family."""

from agilepruner.torchvision import hide_if_broken

hide_if_broken()
