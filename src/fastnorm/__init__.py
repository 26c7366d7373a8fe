from .functional import *
from ._core import get_num_threads, set_num_threads, build
def config():
    return {**build(), "version": "0", "num_threads": get_num_threads()}
def show_config(): print(config())
