from celers_fast._params_py import build_tasks as build_tasks
from celers_fast._params_py import build_values as build_values
from celers_fast._params_py import literal as literal
from celers_fast._params_py import literals as literals
