from celers_fast._backoff_py import delay as delay
from celers_fast._backoff_py import delays as delays
