"""What auth hears: nothing yet."""

from chassis.consumer import Hears
from contracts.policy import Service

hears = Hears(Service.AUTH.value)
