from celers_fast._percentiles_py import percentile as percentile
from celers_fast._percentiles_py import percentiles as percentiles
